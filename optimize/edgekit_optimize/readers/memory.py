"""Refuse a model that needs more memory to convert than this machine has available."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgekit.core.errors import ConfigError, ModelError

LARGEST_BYTES: Final = (1 << 31) - 1
"""The size limit of a protobuf message, and so of the ONNX models that can be rewritten here."""

# A conversion holds the source, its parsed form, the converted model, and a runtime's packed
# copy of the weights. Measured on EfficientNet-Lite0 (18.6 MB): 4.6 times the file, over the libraries.
_COPIES: Final = 5
_MIB: Final = 1 << 20


def check_memory(name: str, size_bytes: int, available_bytes: int | None = None) -> None:
    """Check that this machine has the memory to convert a model of this size.

    Args:
        name: What to call the model in the error.
        size_bytes: All of the model's files.
        available_bytes: Available memory; by default as the kernel reports it.

    Raises:
        ConfigError: This machine has too little memory; the error has both numbers.
        ModelError: The model is larger than an ONNX file can be.
    """
    if size_bytes > LARGEST_BYTES:
        raise ModelError(
            f"{name} has {size_bytes // _MIB} MiB; models here have at most {LARGEST_BYTES // _MIB} MiB",
            hint="edge boards run smaller models: take a smaller variant, or prune it first",
        )
    available = memory_available_bytes() if available_bytes is None else available_bytes
    needed = size_bytes * _COPIES
    if available is not None and needed > available:
        raise ConfigError(
            f"{name} has {size_bytes // _MIB} MiB; converting it takes about {needed // _MIB} MiB of "
            f"memory, {available // _MIB} MiB is available",
            hint="close other programs, or run this on a machine with more memory",
        )


def memory_available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return the memory available without swapping, in bytes; None if the kernel does not report it."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None
