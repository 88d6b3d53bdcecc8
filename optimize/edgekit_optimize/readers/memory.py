"""Refuse a model that this machine has not the memory to convert, before it takes the machine down."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgekit.core.errors import ConfigError, ModelError

LARGEST_BYTES: Final = (1 << 31) - 1
"""What one protobuf message holds, and so the largest ONNX model that is checked and rewritten here."""

# A conversion holds the source, its parsed form, the form that is written, and a runtime's packed
# copy of the weights. Measured on EfficientNet-Lite0 (18.6 MB): 4.6 times the file, over the libraries.
_COPIES: Final = 5
_MIB: Final = 1 << 20


def check_memory(name: str, size_bytes: int, available_bytes: int | None = None) -> None:
    """Make sure that a model of this size can be converted here.

    Args:
        name: What to call the model in the error.
        size_bytes: All of the model's files.
        available_bytes: Memory there is; by default what the kernel says is available.

    Raises:
        ConfigError: This machine has too little memory; the error names what is wanted and what is there.
        ModelError: The model is larger than a model file can be.
    """
    if size_bytes > LARGEST_BYTES:
        raise ModelError(
            f"{name} has {size_bytes // _MIB} MiB; models here have at most {LARGEST_BYTES // _MIB} MiB",
            hint="edge boards run smaller models: take a smaller variant, or prune it first",
        )
    available = memory_available_bytes() if available_bytes is None else available_bytes
    wanted = size_bytes * _COPIES
    if available is not None and wanted > available:
        raise ConfigError(
            f"{name} has {size_bytes // _MIB} MiB; converting it takes about {wanted // _MIB} MiB of "
            f"memory, {available // _MIB} MiB is available",
            hint="close other programs, or run this on a machine with more memory",
        )


def memory_available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return what programs can still take without swapping, in bytes; None where nothing says."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
