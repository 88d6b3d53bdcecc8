"""The table of accelerators: how each is found, how it is proved, and which backends run it.

A row is data. A manifest, a profile or a message only names one, by its kind. Other distributions add
rows by entry points of the group ``edgekit.accelerators``, whose value is an ``Accelerator``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from edgekit.base.plugins import ACCELERATORS, load_target, plugin_target
from edgekit.core.errors import ConfigError

ORT_PREFIX = "ort:"
"""``ort:NAME`` is any execution provider of ONNX Runtime, by the name that the library gives it."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Found: by ``detector`` (``module:function`` of a ``Machine``, in ``edgekit.hardware``) where a device
    needs more than the rest says; else by ``usb`` and ``pci`` ids (``"1a6e:089a"``), or by ``nodes``
    (device files, shell patterns); a row without any of these is found by proving it (``delegate``: the
    library that a profile names; ``ort:...``: the runtime's own list). ``library`` is the file name (a
    shell pattern) of the vendor's library.

    Proved: ``tiny`` runs the portable model of ``edgekit.backends.tiny``; ``file`` runs ``proof_file``,
    a small model compiled for it, on zeros; ``none`` opens the device, and then it is *present, not
    proved*.

    Run: ``runs`` maps each backend to the name it has there (OpenVINO's device, ONNX Runtime's provider,
    LiteRT's delegate library, the foreign tenant); empty where the backend knows it by its kind.

    Versions: ``attributes`` of its fact that have the versions of driver, firmware and library. A
    ``version_function`` without arguments in the library gives the latter as text, of which
    ``version_pattern`` takes the number.

    Hints: what mends a missing driver, permission or library, as commands.
    """

    kind: str
    title: str
    detector: str = ""
    usb: tuple[str, ...] = ()
    pci: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    library: str = ""
    proof: Literal["tiny", "file", "none"] = "tiny"
    proof_file: str = ""
    runs: Mapping[str, str] = MappingProxyType({})
    versions: Mapping[Literal["driver", "firmware", "library"], str] = MappingProxyType({})
    version_function: str = ""
    version_pattern: str = r"([0-9][0-9.]{0,15})"
    driver_fix: str = ""
    permission_fix: str = ""
    library_fix: str = ""

    @property
    def is_found_by_proof(self) -> bool:
        """Whether nothing but a backend that opens it shows that it is there."""
        return not (self.detector or self.usb or self.pci or self.nodes) and self.kind != "cpu"


ROWS: tuple[Accelerator, ...] = (
    Accelerator(
        kind="cpu",
        title="the processor",
        runs={"litert": "", "onnxruntime": "CPUExecutionProvider", "openvino": "CPU", "foreign": ""},
    ),
    Accelerator(
        kind="tensorrt",
        title="NVIDIA GPU by TensorRT",
        detector="edgekit.hardware.nvidia:find",
        runs={"onnxruntime": "TensorrtExecutionProvider", "foreign": "tensorrt"},
        versions={"driver": "driver", "library": "jetpack"},
    ),
    Accelerator(
        kind="cuda",
        title="NVIDIA GPU by CUDA",
        detector="edgekit.hardware.nvidia:find",
        runs={"onnxruntime": "CUDAExecutionProvider"},
    ),
    Accelerator(
        kind="edgetpu",
        title="Google Coral Edge TPU",
        detector="edgekit.hardware.coral:find",
        proof="none",  # it runs compiled files only, and the compiler makes none here
        runs={"litert": "libedgetpu.so.1"},
        versions={"driver": "driver", "library": "runtime"},
        version_function="edgetpu_version",
        version_pattern=r"RuntimeVersion\(([0-9.]{1,16})\)",
    ),
    Accelerator(
        kind="npu",
        title="Intel NPU",
        detector="edgekit.hardware.intel:npu",
        runs={"openvino": "NPU", "onnxruntime": "OpenVINOExecutionProvider"},
    ),
    Accelerator(
        kind="openvino-gpu",
        title="Intel GPU",
        detector="edgekit.hardware.intel:gpu",
        runs={"openvino": "GPU", "onnxruntime": "OpenVINOExecutionProvider"},
    ),
    Accelerator(
        kind="myriad",
        title="Intel Movidius Myriad X",
        detector="edgekit.hardware.intel:myriad",
        runs={"foreign": "myriad"},
    ),
    Accelerator(
        kind="delegate",
        title="the LiteRT delegate, or ONNX Runtime provider, that the profile names",
        runs={"litert": "", "onnxruntime": ""},
    ),
)


def accelerator(kind: str) -> Accelerator | None:
    """Return the row of a kind: a built-in one, any ONNX Runtime provider, or one that a package adds.

    Raises:
        ConfigError: A package names a row that cannot be loaded, or is none.
    """
    row = next((row for row in ROWS if row.kind == kind), None)
    if row is not None:
        return row
    if kind.startswith(ORT_PREFIX) and len(kind) > len(ORT_PREFIX):
        name = kind[len(ORT_PREFIX) :]
        return Accelerator(kind=kind, title=f"ONNX Runtime's {name}", runs={"onnxruntime": name})
    target = plugin_target(ACCELERATORS, kind)
    if not target:
        return None
    row = load_target(target)
    if not isinstance(row, Accelerator) or row.kind != kind:
        raise ConfigError(f"{target} is no accelerator row of kind {kind!r}", hint="see docs/plugins.md")
    return row


def rows_for(kinds: Iterable[str]) -> tuple[Accelerator, ...]:
    """Return the built-in rows, and those of other kinds that are named and installed."""
    built_in = {row.kind for row in ROWS}
    others = (accelerator(kind) for kind in sorted(set(kinds) - built_in))
    return (*ROWS, *(row for row in others if row is not None))


def name_in(backend: str, kind: str) -> str | None:
    """Return what a backend calls an accelerator, empty where it knows it by its kind.

    Returns:
        None where no row says that this backend runs it.
    """
    row = accelerator(kind)
    return None if row is None else row.runs.get(backend)
