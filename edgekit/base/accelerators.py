"""The table of accelerators: how each is found and proved, and which backends run it.

Manifests, profiles and messages only name a row, by its kind. Other distributions add rows by entry points
of the group ``edgekit.accelerators``, whose value is an ``Accelerator``.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

from edgekit.base.plugins import ACCELERATORS, load_target, plugin_target
from edgekit.core.errors import ConfigError

ORT_PREFIX = "ort:"
"""``ort:NAME`` is any execution provider of ONNX Runtime, by the library's name."""


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    Detection: ``detector`` (``module:function`` of a ``Machine``), or ``usb`` and ``pci`` ids
    (``"1a6e:089a"``), or ``nodes`` (device files, shell patterns); a row with none of these is detected by
    its proof. ``library``: file name of the vendor's library (shell pattern).

    Proof: ``tiny`` runs the model of ``edgekit.backends.tiny``; ``file`` runs ``proof_file``, a small model
    compiled for it, on zeros; ``none`` opens the device, which is then *present, not proved*.

    ``is_exclusive``: one process at a time can have the device, so the agent runs all of its models in one.

    ``runs`` maps each backend to its own name for it (OpenVINO's device, ONNX Runtime's provider, LiteRT's
    delegate library, the foreign tenant), or to "" for the kind. ``versions`` names the attributes with
    versions. ``version_function`` of the library returns text from which ``version_pattern`` takes the
    number. ``*_fix`` are commands.
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
    is_exclusive: bool = False
    runs: Mapping[str, str] = MappingProxyType({})
    versions: Mapping[Literal["driver", "firmware", "library"], str] = MappingProxyType({})
    version_function: str = ""
    version_pattern: str = r"([0-9][0-9.]{0,15})"
    driver_fix: str = ""
    permission_fix: str = ""
    library_fix: str = ""

    @property
    def is_found_by_proof(self) -> bool:
        """Whether only a backend that opens it can detect it."""
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
        versions={"driver": "driver"},
    ),
    Accelerator(
        kind="edgetpu",
        title="Google Coral Edge TPU",
        detector="edgekit.hardware.coral:find",
        is_exclusive=True,
        proof="none",  # it runs compiled files only, and there is no compiler here
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
        is_exclusive=True,
        runs={"foreign": "myriad"},
    ),
    Accelerator(
        kind="delegate",
        title="the LiteRT delegate, or ONNX Runtime provider, that the profile names",
        runs={"litert": "", "onnxruntime": ""},
    ),
)


def accelerator(kind: str) -> Accelerator | None:
    """Return the row of a kind: built-in, an ONNX Runtime provider, or a package's; None if unknown.

    Raises:
        ConfigError: A package's row cannot be loaded, or is not one.
    """
    if (row := next((row for row in ROWS if row.kind == kind), None)) is not None:
        return row
    if kind.startswith(ORT_PREFIX) and len(kind) > len(ORT_PREFIX):
        name = kind[len(ORT_PREFIX) :]
        return Accelerator(kind=kind, title=f"ONNX Runtime's {name}", runs={"onnxruntime": name})
    target = plugin_target(ACCELERATORS, kind)
    if not target:
        return None
    row = load_target(target)
    if not isinstance(row, Accelerator) or row.kind != kind:
        raise ConfigError(f"{target} is not an accelerator row of kind {kind!r}", hint="see docs/plugins.md")
    return row


def rows_for(kinds: Iterable[str]) -> tuple[Accelerator, ...]:
    """Return the built-in rows, and the installed ones of other ``kinds``."""
    built_in = {row.kind for row in ROWS}
    others = (accelerator(kind) for kind in sorted(set(kinds) - built_in))
    return (*ROWS, *(row for row in others if row is not None))


def name_in(backend: str, kind: str) -> str | None:
    """Return a backend's name for an accelerator (empty: the kind); None where it does not run it."""
    row = accelerator(kind)
    return None if row is None else row.runs.get(backend)
