"""ONNX Runtime's execution providers: options, libraries, and what they leave to the processor."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edgekit.backends._common import cache_folder
from edgekit.base.accelerators import name_in
from edgekit.core.spec import Variant

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
STRICT = "session.disable_cpu_ep_fallback"
RECORD = "session.record_ep_graph_assignment_info"

# Operators that compute sizes and indices. ONNX Runtime puts those between a Shape and its use on the
# processor on purpose, since the GPU would have to be waited for at each; all are known to CUDA as well, so
# none of them stands there for want of a kernel.
# Source: onnxruntime, core/framework/fallback_cpu_capability.cc, GetCpuPreferredNodes.
_ON_SIZES = frozenset(
    (
        *("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Identity", "Cast"),
        *(
            "Gather",
            "GatherElements",
            "Slice",
            "Split",
            "Concat",
            "Unsqueeze",
            "Squeeze",
            "Reshape",
            "Expand",
        ),
        *("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Where"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Min", "Max"),
        *("ReduceProd", "ReduceMin", "ReduceMax", "ReduceSum"),
    )
)


@dataclass(frozen=True)
class Provider:
    """What an execution provider needs: its options, and the keys that take the device and the cache."""

    options: Mapping[str, str] = field(default_factory=dict)
    device_key: str = "device_id"
    cache: Mapping[str, str] = field(default_factory=dict)
    helpers: tuple[str, ...] = ()
    """Providers on the same accelerator for operators that the first one lacks."""
    hint: str = ""
    is_cuda: bool = False
    """Needs CUDA's libraries, and lets sizes be computed on the processor."""


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        CPU: Provider(device_key=""),
        # by default float32 is computed with the 10-bit mantissas of TF32: an H200 is off by 0.012 in a
        # classifier's scores and by 6 pixels in a box
        "CUDAExecutionProvider": Provider(
            {"use_tf32": "0"},
            hint='install "onnxruntime-gpu[cuda,cudnn]"; on a Jetson a build of its own, as the public '
            "wheels lack its GPU",
            is_cuda=True,
        ),
        "TensorrtExecutionProvider": Provider(
            {"trt_fp16_enable": "0"},
            cache={
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": "{cache}",
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": "{cache}",
            },
            helpers=("CUDAExecutionProvider",),
            hint="install a build of onnxruntime with TensorRT, or use backend 'foreign', tenant 'tensorrt'",
            is_cuda=True,
        ),
        "OpenVINOExecutionProvider": Provider(
            device_key="device_type",
            cache={"cache_dir": "{cache}"},
            hint="install onnxruntime-openvino, or use backend 'openvino'",
        ),
    }
)


def provider(name: str) -> Provider:
    """Return the row of a provider; one without special needs if it has none."""
    return PROVIDERS.get(name, Provider())


def provider_options(name: str, variant: Variant, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options a provider opens with: its own, the device, the cache folder, then the user's.

    Raises:
        StorageError: The cache folder cannot be made.
    """
    row = provider(name)
    chosen = dict(row.options)
    device = options.get("device")
    if row.device_key == "device_type" and device is None:
        device = name_in("openvino", variant.accelerator)
    if row.device_key and device is not None:
        chosen[row.device_key] = str(device)
    folder = cache_folder(options)
    if folder is not None:
        chosen |= {key: value.format(cache=folder) for key, value in row.cache.items()}
    return chosen | {str(key): str(value) for key, value in options.get("provider_options", {}).items()}


def load_cuda_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where the system's loader does not look, or from the system.

    ``onnxruntime`` says on standard output what it lacks, where ``--json`` writes its document; here it is
    logged. Builds before 1.21 and builds without CUDA have nothing to load.
    """
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload()
    for line in filter(None, said.getvalue().splitlines()):
        logger.warning("onnxruntime: %s", line)


def computes_beside_sizes(session: Any) -> str:
    """Return the operators that run on the processor though they compute more than sizes; empty if none.

    Args:
        session: A session of another provider, opened with ``RECORD``.
    """
    left = Counter(
        node.op_type
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name == CPU
        for node in part.get_nodes()
    )
    heavy = beyond_sizes(left)
    if left and not heavy:
        logger.info("%d operators on sizes run on the processor", left.total())
    return heavy


def beyond_sizes(operators: Iterable[str] | Counter[str]) -> str:
    """Return those operators that compute more than sizes, with how many there are of each: "Conv x 3"."""
    left = Counter(operators)
    return ", ".join(f"{name} x {left[name]}" for name in sorted(left) if name not in _ON_SIZES)
