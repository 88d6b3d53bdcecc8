"""OpenVINO's current releases on the CPU, GPU, NPU or AUTO; precision pinned, telemetry off."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.backends._common import (
    ModelSource,
    OpenModel,
    cache_folder,
    cannot_import,
    fixed_shape,
    make_spec,
    no_datatype,
    refused,
    run_failure,
    short,
    thread_count,
    unique_names,
)
from edgekit.base.accelerators import ROWS, name_in
from edgekit.core.errors import BackendError, BackendUnavailableError, ModelLoadError
from edgekit.core.ports import ModelData
from edgekit.core.select import wrong_arithmetic
from edgekit.core.spec import Quantization, TensorSpec, Variant

_ACCELERATORS: Mapping[str, str] = MappingProxyType(
    {row.runs["openvino"]: row.kind for row in ROWS if "openvino" in row.runs}
)
# By default the CPU plugin runs float models in bf16 (AVX512-BF16, AMX) or fp16 (ARMv8.2), which
# changed the best class of 7 % of test images; only a variant of that precision gets it.
_PRECISIONS: Mapping[str, str] = MappingProxyType({"bf16": "bf16", "fp16": "f16"})
_HWCAP = 16  # Source: Linux, include/uapi/linux/auxvec.h, AT_HWCAP.
_ASIMDDP = 1 << 20  # Source: Linux, arch/arm64/include/uapi/asm/hwcap.h, HWCAP_ASIMDDP.


class OpenVinoBackend(OpenModel):
    """Runs one model (.xml, .onnx, .tflite), and only on the accelerator its variant names.

    Options: ``threads``; ``shapes`` (of inputs with free dimensions); ``cache`` (a folder for
    compiled models); ``device`` (OpenVINO's name, such as "GPU.1" or "AUTO:NPU,CPU"; ``accelerator``
    is what then runs); ``properties`` (any of OpenVINO's).
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        self._source = ModelSource(data, variant)
        super().__init__(str(self._source))
        self._quantization: Mapping[str, Quantization] = {}
        self._variant = variant
        device = _device(variant, options)
        self._refuse(int8_reason(platform.machine(), _hwcap(), device, variant, options))
        self._ov = import_openvino()
        self._request: Any = None
        # The CPU plugin gives the thread that opens a model a signal stack, and closing the model frees
        # it: an opener that lives on dies at its next signal. So one thread opens and closes.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openvino")
        try:
            self._thread.submit(self._open, device, options).result()
        except BackendError:
            self._thread.shutdown()
            raise

    def _refuse(self, reason: str | None) -> None:
        if reason:
            raise ModelLoadError(
                f"{self._source}: {reason}",
                hint="use the int8 variant of litert or onnxruntime, or the float one of openvino",
            )

    def _open(self, device: str, options: Mapping[str, Any]) -> None:
        compiled = self._compile(device, options)
        self.accelerator = self._running(compiled, device)
        self._request = compiled.create_infer_request()
        self.keeps_state = bool(self._request.query_state())
        self.inputs = self._bind_inputs(compiled)
        self.outputs = self._bind_outputs(compiled)
        self._is_fixed = len(self._results) == len(self.outputs)

    def run(self) -> dict[str, NDArray[Any]]:
        """Run on the input views; return arrays by output name, valid until the next ``run``."""
        self._require_open()
        try:
            outputs = self._request.infer(share_outputs=True)
        except RuntimeError as cause:
            is_lost = self.accelerator != "cpu"
            raise run_failure(self._source, "openvino", cause, is_lost=is_lost) from cause
        if self._is_fixed:
            return self._results.copy()
        return {spec.name: outputs[index] for index, spec in enumerate(self.outputs)}

    def reset(self) -> None:
        """Forget the state of a recurrent model."""
        self._require_open()
        self._request.reset_state()

    def close(self) -> None:
        """Free everything; safe to call twice."""
        if self._is_open:
            self._thread.submit(self._free).result()
            self._thread.shutdown()

    def _free(self) -> None:
        self._request = None  # before the arrays: it writes into their memory and holds no reference
        super().close()

    def _compile(self, device: str, options: Mapping[str, Any]) -> Any:
        core = self._ov.Core()
        try:
            model = self._read(core)
            # Compiling may merge tensors and give an input or output several names, in no order.
            self._input_names = unique_names(map(_name, model.inputs), "input")
            self._output_names = unique_names(map(_name, model.outputs), "output")
            self._read_quantization(model)
            shapes = {port: fixed_shape(_name(port), _sizes(port), options) for port in model.inputs}
            free = {port: shape for port, shape in shapes.items() if port.partial_shape.is_dynamic}
            if free:
                model.reshape({port: self._ov.PartialShape(list(shape)) for port, shape in free.items()})
        except RuntimeError as cause:
            raise refused(self._source, "openvino", cause) from cause
        try:
            return core.compile_model(model, device, _properties(self._variant, device, options))
        except RuntimeError as cause:
            raise self._compile_failure(core, device, cause) from cause

    def _read(self, core: Any) -> Any:
        source = self._source
        if source.path is not None or source.suffix == ".tflite":
            return core.read_model(str(source.file("openvino's reader of .tflite models")))
        return core.read_model(*source.parts[: 2 if source.suffix == ".xml" else 1])

    def _read_quantization(self, model: Any) -> None:
        """Take scales and zero points from the file: OpenVINO does not report them."""
        names = [*self._input_names, *self._output_names]
        ports = zip(names, [*model.inputs, *model.outputs], strict=True)
        integers = {
            name for name, port in ports if np.issubdtype(_dtype(self._source, name, port), np.integer)
        }
        facts = self._source.facts()
        self._refuse(file_reason(facts.precision, platform.machine(), _cpu_flags(), self._variant))
        if lost := sorted(set(facts.quantization) - integers):
            raise ModelLoadError(
                f"{self._source}: the file quantises {', '.join(map(repr, lost))}, openvino has no integer "
                f"tensor of that name; it has {', '.join(map(repr, names))}",
                hint="run this file with litert or onnxruntime",
            )
        self._quantization = facts.quantization

    def _compile_failure(self, core: Any, device: str, cause: RuntimeError) -> BackendError:
        name = device.split(".", maxsplit=1)[0]
        if name in ("GPU", "NPU") and not any(known.startswith(name) for known in core.available_devices):
            return BackendUnavailableError(
                f"variant {self._variant.id!r}: openvino finds no {name} (it has "
                f"{', '.join(core.available_devices)}): {short(cause)}",
                hint=f"install the driver of Intel's {name} and give this user access to its device node",
            )
        return refused(self._source, "openvino", cause)

    def _running(self, compiled: Any, requested: str) -> str:
        """Return the accelerator that runs the model; refuse any but the requested one."""
        devices = [
            device.strip("()").split(".", maxsplit=1)[0]
            for device in compiled.get_property("EXECUTION_DEVICES")
        ]
        kinds = [_ACCELERATORS.get(device, device.lower()) for device in devices]
        if requested.split(".", maxsplit=1)[0] in _ACCELERATORS and kinds != [self._variant.accelerator]:
            raise BackendUnavailableError(
                f"variant {self._variant.id!r}: {requested} requested, openvino runs on {', '.join(devices)}",
                hint="choose a variant for that accelerator",
            )
        return "+".join(kinds)

    def _bind_inputs(self, compiled: Any) -> tuple[TensorSpec, ...]:
        specs = []
        for index, (name, port) in enumerate(zip(self._input_names, compiled.inputs, strict=True)):
            array = np.zeros(list(port.shape), _dtype(self._source, name, port))
            self._request.set_input_tensor(index, self._ov.Tensor(array, shared_memory=True))
            self._arrays[name] = array
            specs.append(make_spec(name, array.dtype, array.shape, self._quantization.get(name)))
        return tuple(specs)

    def _bind_outputs(self, compiled: Any) -> tuple[TensorSpec, ...]:
        """Bind our own memory to outputs of known size; OpenVINO allocates the others."""
        specs = []
        for index, (name, port) in enumerate(zip(self._output_names, compiled.outputs, strict=True)):
            dtype = _dtype(self._source, name, port)
            sizes = _sizes(port)
            if not port.partial_shape.is_dynamic:
                array = np.zeros(sizes, dtype)
                self._request.set_output_tensor(index, self._ov.Tensor(array, shared_memory=True))
                self._results[name] = array
            specs.append(make_spec(name, dtype, sizes, self._quantization.get(name)))
        return tuple(specs)


def import_openvino() -> Any:
    """Return OpenVINO without its telemetry, which writes into the home folder and opens a socket.

    A None in ``sys.modules`` makes OpenVINO take its own stub; no other switch works before the import.

    Raises:
        BackendUnavailableError: It is not installed, or does not fit this machine.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as cause:
        raise cannot_import("openvino", cause) from cause
    return openvino


def int8_reason(
    machine: str, hwcap: int, device: str, variant: Variant, options: Mapping[str, Any]
) -> str | None:
    """Return why an int8 model cannot run on this CPU, or None if it can.

    On ARM cores without the dot-product instructions (Cortex-A53, A72) OpenVINO 2026.4 compiles no
    int8 models, except as float with the property ``LP_TRANSFORMS_MODE=NO``.

    Args:
        machine: The output of ``uname -m``.
        hwcap: The kernel's AT_HWCAP bits.
        device: OpenVINO's device string.
        variant: The variant to run.
        options: The backend's options.
    """
    if machine != "aarch64" or hwcap & _ASIMDDP or device != "CPU":
        return None
    if variant.precision not in ("int8", "dynamic-int8") or "LP_TRANSFORMS_MODE" in options.get(
        "properties", {}
    ):
        return None
    return "openvino compiles no int8 model on an ARM core without dot-product instructions (asimddp)"


def file_reason(precision: str, machine: str, flags: Collection[str], variant: Variant) -> str | None:
    """Return why this CPU would compute wrongly a file whose manifest does not call it int8; else None.

    Selection judges by the manifest, and rejects a variant that is called int8.

    Args:
        precision: What the file's layers compute in.
        machine: The output of ``uname -m``.
        flags: The CPU's flags in ``/proc/cpuinfo``; empty if they are not known.
        variant: The variant to run.
    """
    if precision != "int8" or variant.precision == "int8":
        return None
    as_filed = msgspec.structs.replace(variant, precision="int8")
    reason = next(iter(wrong_arithmetic(as_filed, machine, flags)), None)
    return f"the manifest says {variant.precision}, the file's layers are int8: {reason}" if reason else None


def _cpu_flags() -> list[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("flags")), "").split()


def _hwcap() -> int:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    return int(getauxval(_HWCAP))


def _device(variant: Variant, options: Mapping[str, Any]) -> str:
    name = name_in("openvino", variant.accelerator)
    if name is None:
        hint = (
            "MYRIAD needs backend 'foreign' with tenant 'myriad'" if variant.accelerator == "myriad" else ""
        )
        raise BackendUnavailableError(
            f"variant {variant.id!r}: openvino cannot run on {variant.accelerator!r}",
            hint=hint or f"openvino runs on {', '.join(_ACCELERATORS.values())}",
        )
    return str(options.get("device", name))


def _properties(variant: Variant, device: str, options: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        properties |= {
            "INFERENCE_NUM_THREADS": thread_count(options),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _PRECISIONS.get(variant.precision, "f32"),
        }
    elif variant.precision in ("fp32", "bf16"):
        properties["INFERENCE_PRECISION_HINT"] = _PRECISIONS.get(variant.precision, "f32")
    folder = cache_folder(options)
    if folder is not None:
        properties["CACHE_DIR"] = str(folder)
    return properties | dict(options.get("properties", {}))


def _name(port: Any) -> str:
    return str(port.any_name if port.names else port.node.friendly_name)


def _sizes(port: Any) -> list[int]:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise ModelLoadError(
            f"tensor {_name(port)!r} has no fixed number of dimensions",
            hint="export the model with a fixed rank",
        )
    return [-1 if size.is_dynamic else size.get_length() for size in shape]


def _dtype(source: ModelSource, name: str, port: Any) -> Any:
    kind = str(port.element_type)
    try:
        dtype = port.element_type.to_dtype()
    except RuntimeError as cause:
        raise no_datatype(f"{source}: tensor {name!r}", kind) from cause
    if dtype.kind not in "biuf":  # OpenVINO has a dtype for strings and no tensor to feed them
        raise no_datatype(f"{source}: tensor {name!r}", kind)
    return dtype
