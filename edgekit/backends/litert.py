"""LiteRT (TensorFlow Lite) on the CPU, on an Edge TPU, and behind any external delegate.

``Interpreter`` and not ``CompiledModel``, which holds the interpreter lock while it runs and takes no
external delegate.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.backends._common import (
    ModelSource,
    OpenModel,
    fixed_shape,
    make_spec,
    refused,
    short,
    thread_count,
    unique_names,
)
from edgekit.base.accelerators import name_in
from edgekit.base.install_hint import install_hint
from edgekit.core.errors import (
    AcceleratorLostError,
    BackendError,
    BackendUnavailableError,
    ConfigError,
    InferenceError,
    ModelLoadError,
)
from edgekit.core.ports import ModelData
from edgekit.core.spec import Quantization, TensorSpec, Variant

logger = logging.getLogger(__name__)

_LIBRARIES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)
_EDGETPU_OP = "edgetpu-custom-op"
_STATEFUL = ("VAR_HANDLE", "LSTM", "RNN", "SVDF")


class LiteRtBackend(OpenModel):
    """Runs one .tflite file, and only on the accelerator its variant names.

    Options: ``threads`` (XNNPACK's), ``shapes`` (of inputs with free dimensions), ``device`` (which
    Edge TPU: "usb", "pci", "usb:0"), ``delegate`` = ``{"path": ..., "options": {...}}``.

    ``library`` is the distribution that runs it: ``ai-edge-litert`` or ``tflite-runtime``.

    LiteRT refuses to run while a view of its memory is held: drop input views before ``run``.
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        self._source = ModelSource(data, variant)
        super().__init__(str(self._source))
        self._options = options
        self._interpreter: Any = None
        self._views: dict[str, Callable[[], NDArray[Any]]] = {}
        self._sources: list[tuple[str, int, Callable[[], NDArray[Any]], NDArray[Any]]] = []
        self.accelerator = variant.accelerator
        self.library, self._module = _import_library()
        self._delegate = _requested_delegate(variant, options)
        self._build()
        self.keeps_state = any(part in name for name in _operations(self._interpreter) for part in _STATEFUL)
        self.inputs, self.outputs = self._describe()

    def view(self, name: str) -> NDArray[Any]:
        """Return the writable memory of one input; drop it before ``run``."""
        try:
            return self._views[name]()
        except KeyError:
            raise self._no_view(name) from None

    def run(self) -> dict[str, NDArray[Any]]:
        """Run on the input views; return arrays by output name, valid until the next ``run``."""
        self._require_open()
        interpreter = self._interpreter
        try:
            interpreter.invoke()
        except (RuntimeError, ValueError) as cause:
            raise self._failure(cause) from cause
        results = {}
        for name, index, source, target in self._sources:
            value = source()
            if value.shape != target.shape:  # the size depends on the data
                results[name] = interpreter.get_tensor(index)
            else:
                np.copyto(target, value)
                results[name] = target
        return results

    def reset(self) -> None:
        """Forget the state of a recurrent model (VAR_HANDLE variables)."""
        self._require_open()
        self._build()

    def close(self) -> None:
        """Free everything; safe to call twice."""
        super().close()
        self._views = {}
        self._sources = []
        self._interpreter = None

    def _build(self) -> None:
        """Create a new interpreter: at the start, after an error, and to forget state."""
        self.close()
        arguments: dict[str, Any] = {**self._model(), "num_threads": thread_count(self._options)}
        if self._delegate is not None:
            arguments["experimental_delegates"] = [_load_delegate(self._module, *self._delegate)]
        try:
            interpreter = self._module.Interpreter(**arguments)
            if self.accelerator == "edgetpu":
                _refuse_plain_model(interpreter, self._source)
            elif self._delegate is not None:
                self._prove_delegate(interpreter)
            self._fix_shapes(interpreter)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, OSError) as cause:
            raise self._load_failure(cause) from cause
        self._bind(interpreter)

    def _model(self) -> dict[str, Any]:
        if self._source.path is not None:
            return {"model_path": str(self._source.path)}
        return {"model_content": self._source.parts[0]}

    def _bind(self, interpreter: Any) -> None:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        names = unique_names((detail["name"] for detail in inputs), "input")
        self._views = {
            name: interpreter.tensor(detail["index"]) for name, detail in zip(names, inputs, strict=True)
        }
        names = unique_names((detail["name"] for detail in outputs), "output")
        self._sources = [
            (
                name,
                index := detail["index"],
                interpreter.tensor(index),
                np.zeros(detail["shape"], detail["dtype"]),
            )
            for name, detail in zip(names, outputs, strict=True)
        ]
        self._interpreter = interpreter
        self._is_open = True

    def _fix_shapes(self, interpreter: Any) -> None:
        for detail in interpreter.get_input_details():
            signature = [int(size) for size in detail.get("shape_signature", ())] or list(detail["shape"])
            shape = list(fixed_shape(detail["name"], signature, self._options))
            if shape != list(detail["shape"]):
                interpreter.resize_tensor_input(detail["index"], shape, strict=True)

    def _describe(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        return (
            tuple(map(self._spec, self._views, inputs)),
            tuple(self._spec(row[0], detail) for row, detail in zip(self._sources, outputs, strict=True)),
        )

    def _spec(self, name: str, detail: Mapping[str, Any]) -> TensorSpec:
        parameters = detail.get("quantization_parameters", {})
        scales = parameters.get("scales", ())
        if len(scales) > 1:
            self._source.facts()  # raises
        quantization = None
        if len(scales) == 1:
            quantization = Quantization(scale=float(scales[0]), zero_point=int(parameters["zero_points"][0]))
        return make_spec(name, detail["dtype"], detail["shape"], quantization)

    def _prove_delegate(self, interpreter: Any) -> None:
        """Refuse a delegate that took no part of the graph: LiteRT would run all of it on the CPU.

        Once tensors are allocated it is too late: LiteRT's CPU delegate adds nodes of its own.
        """
        plain = self._module.Interpreter(**self._model())
        if len(_operations(interpreter)) <= len(_operations(plain)):
            raise ModelLoadError(
                f"{self._source}: the delegate took no part of the model; it would run on the CPU",
                hint="compile the model for this accelerator, or publish a CPU variant",
            )

    def _load_failure(self, cause: Exception) -> BackendError:
        if _EDGETPU_OP in str(cause) and self.accelerator != "edgetpu":
            return ModelLoadError(
                f"{self._source}: compiled for an Edge TPU, asked to run on {self.accelerator!r}",
                hint="give the variant accelerator 'edgetpu', or publish a variant for the CPU",
            )
        return refused(self._source, self.library, cause)

    def _failure(self, cause: Exception) -> BackendError:
        """Return the error for a failed run; a new interpreter replaces the old one, which keeps errors."""
        if "reference to internal data" in str(cause):
            return InferenceError(
                f"{self._source}: an input view is still held while the model runs",
                hint="drop the array that view() gave (del) before run()",
            )
        try:
            self._build()
        except BackendError as second:
            if self.accelerator == "cpu":
                raise
            return AcceleratorLostError(
                f"{self._source}: {self.accelerator} failed and does not come back: {short(second)}",
                reasons=(short(cause),),
                hint="plug the accelerator in again; another variant takes over meanwhile",
            )
        return InferenceError(f"{self._source}: {self.library} failed: {short(cause)}")


def _import_library() -> tuple[str, Any]:
    """Return the distribution and module that run .tflite files."""
    reasons = []
    for distribution, module in _LIBRARIES:
        try:
            library = importlib.import_module(module)
        except ImportError as cause:
            reasons.append(f"{distribution}: {short(cause)}")
            continue
        if reasons:
            logger.warning("litert runs on %s (%s)", distribution, "; ".join(reasons))
        return distribution, library
    raise BackendUnavailableError(
        "backend 'litert': no library runs .tflite files here",
        reasons=tuple(reasons),
        hint=install_hint("litert"),
    )


def _requested_delegate(variant: Variant, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the delegate's library and options, or None for the CPU."""
    if variant.accelerator == "cpu":
        return None
    library = name_in("litert", variant.accelerator)
    if library is None:
        raise BackendUnavailableError(
            f"variant {variant.id!r}: litert cannot run on {variant.accelerator!r}",
            hint="litert runs on 'cpu', 'edgetpu', 'delegate', and rows that plug-ins add",
        )
    chosen = options.get("delegate", {})
    if library:
        chosen = {"path": library, **chosen}
    if not isinstance(chosen.get("path"), str):
        raise ConfigError(
            f"variant {variant.id!r}: accelerator 'delegate' needs the delegate's library",
            hint='set options.delegate = {path = "/usr/lib/libdelegate.so", options = {}}',
        )
    device = {"device": options["device"]} if "device" in options else {}
    return chosen["path"], {**device, **chosen.get("options", {})}


def open_delegate(variant: Variant, options: Mapping[str, Any]) -> Any:
    """Return the delegate of a variant, its device open until the delegate is dropped.

    Raises:
        BackendUnavailableError: The library or the device is not there.
        ConfigError: The options name no delegate.
    """
    delegate = _requested_delegate(variant, options)
    return None if delegate is None else _load_delegate(_import_library()[1], *delegate)


def _load_delegate(module: Any, library: str, options: Mapping[str, Any]) -> Any:
    try:
        ctypes.CDLL(library)  # the library's own loader leaves a half-made object behind
    except OSError as cause:
        raise BackendUnavailableError(
            f"the delegate {library!r} cannot be loaded: {short(cause)}",
            hint="install libedgetpu1-std, of a build that matches the runtime's version"
            if "edgetpu" in library
            else "install the vendor's delegate, or correct options.delegate.path",
        ) from cause
    try:
        return module.load_delegate(library, dict(options))
    except (ValueError, RuntimeError, OSError) as cause:
        raise BackendUnavailableError(
            f"the delegate {library!r} found no device it can use: {short(cause)}",
            hint="check that it is plugged in and that this user may open it (edgekit doctor)",
        ) from cause


def _operations(interpreter: Any) -> list[str]:
    return [operation["op_name"] for operation in interpreter._get_ops_details()]  # noqa: SLF001 - no other way


def _refuse_plain_model(interpreter: Any, source: ModelSource) -> None:
    """Refuse a model that is not compiled for the Edge TPU: all of it would run on the CPU."""
    if _EDGETPU_OP not in _operations(interpreter):
        raise ModelLoadError(
            f"{source}: not compiled for the Edge TPU; it would run on the CPU",
            hint="compile the model with edgetpu_compiler, or give the variant accelerator 'cpu'",
        )
