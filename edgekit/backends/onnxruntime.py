"""ONNX Runtime on the CPU and on any execution provider its build carries, never with a silent fallback."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.backends._common import (
    ModelSource,
    OpenModel,
    cannot_import,
    fixed_shape,
    make_spec,
    no_datatype,
    refused,
    run_failure,
    short,
    thread_count,
)
from edgekit.backends.ort_providers import (
    CPU,
    RECORD,
    STRICT,
    computes_beside_sizes,
    load_cuda_libraries,
    provider,
    provider_options,
)
from edgekit.base.accelerators import ROWS, name_in
from edgekit.base.dtypes import DTYPES, TEXT
from edgekit.core.errors import BackendError, BackendUnavailableError, ConfigError, ModelLoadError
from edgekit.core.ports import ModelData
from edgekit.core.spec import Quantization, TensorSpec, Variant

logger = logging.getLogger(__name__)

_PRECISE = "session.x64quantprecision"
_FORBIDDEN = "AzureExecutionProvider"  # it sends tensors to a remote server


# Source: onnxruntime, "Graph Optimizations in ONNX Runtime".
_OPTIMIZATION = MappingProxyType(
    {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "all": "ORT_ENABLE_ALL"}
)


class OnnxRuntimeBackend(OpenModel):
    """Runs one ONNX model, and only on the accelerator its variant names.

    Options: ``threads``; ``shapes`` (of inputs with free dimensions); ``spinning`` (false saves
    power and costs latency); ``arena`` (false saves memory, costs about 15 % of time);
    ``optimization`` ("all", "basic", or "none" for a model optimised beforehand); ``device`` (which of
    several); ``cache`` (a folder for compiled engines); ``provider`` (another one, by name);
    ``provider_options``; ``provider_library`` = ``{"name", "path"}``, a provider to load as a plugin.
    """

    def __init__(self, data: ModelData, variant: Variant, options: Mapping[str, Any]) -> None:
        self._source = ModelSource(data, variant)
        super().__init__(str(self._source))
        self._quantization: Mapping[str, Quantization] = {}
        self._ort = _import_library(options)
        self.version = str(self._ort.__version__)  # of the build that runs, where several are installed
        self._provider_name = _requested_provider(self._ort, variant, options)
        self._session: Any = self._load(variant, options)
        self.accelerator = variant.accelerator
        self.classes: dict[str, tuple[str, ...]] = {}
        """The keys of each output that is a map for each row (ZipMap), in the order of its columns."""
        self._values: list[tuple[str, Any]] = []
        self._is_bound = all(node.type in _NUMPY for node in self._nodes())
        self._binding: Any = self._session.io_binding()
        if any(np.issubdtype(_dtype(self._source, node), np.integer) for node in self._nodes()):
            self._quantization = self._source.facts().quantization
        self.inputs = self._bind_inputs(options)
        self.outputs = self._bind_outputs()
        self._free_outputs = [spec.name for spec in self.outputs if spec.name not in self._results]
        self._copies_inputs = self._provider_name != CPU

    def run(self) -> dict[str, NDArray[Any]]:
        """Run on the input views; return arrays by output name, valid until the next ``run``."""
        self._require_open()
        try:
            return self._run()
        except Exception as cause:  # the library's exceptions have no common base
            is_lost = self.accelerator != "cpu" and _says_lost(cause)
            if is_lost or not self._results:
                raise run_failure(self._source, "onnxruntime", cause, is_lost=is_lost) from cause
            # where a file declares an output's shape falsely, memory of that shape does not fit
            logger.info("%s: the runtime allocates the outputs from now on: %s", self._source, short(cause))
            self._results = {}
            self._free_outputs = [spec.name for spec in self.outputs]
        return self.run()

    def _run(self) -> dict[str, NDArray[Any]]:
        if not self._is_bound:
            return self._run_unbound()
        if self._copies_inputs:  # binding copies host memory to the device, so bind at every run
            for name, value in self._values:
                self._binding.bind_ortvalue_input(name, value)
        for name in self._free_outputs:  # the runtime keeps the size of the previous run
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        if not self._free_outputs:
            return self._results.copy()
        values = self._binding.copy_outputs_to_cpu()
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _run_unbound(self) -> dict[str, NDArray[Any]]:
        """Run a model with texts or maps, which cannot be bound to memory; the runtime makes each output."""
        names = [spec.name for spec in self.outputs]
        values = self._session.run(names, self._arrays)
        for name, value in zip(names, values, strict=True):
            if isinstance(value, list) and name not in self.classes:
                self.classes[name] = tuple(str(key) for key in value[0]) if value else ()
        return {
            name: _columns(value) if isinstance(value, list) else np.asarray(value)
            for name, value in zip(names, values, strict=True)
        }

    def close(self) -> None:
        """Free everything; safe to call twice."""
        self._binding = None  # before the arrays: it writes into their memory and holds no reference
        self._session = None
        self._values = []
        super().close()

    def _load(self, variant: Variant, options: Mapping[str, Any]) -> Any:
        name, row = self._provider_name, provider(self._provider_name)
        helpers = [(helper, dict(provider(helper).options)) for helper in row.helpers]
        providers: list[Any] = [(name, provider_options(name, variant, options)), *helpers]
        settings = _session_options(self._ort, options)
        counts = row.is_cuda and hasattr(self._ort.InferenceSession, "get_provider_graph_assignment_info")
        if row.is_cuda:
            load_cuda_libraries(self._ort)
        if name != CPU:  # by default the runtime falls back to the CPU without an error
            settings.add_session_config_entry(RECORD if counts else STRICT, "1")
        try:
            session = self._new_session(settings, providers)
        except Exception as cause:  # the library's exceptions have no common base
            raise _load_failure(self._source, variant, name, cause) from cause
        running = session.get_providers()
        if name not in running:
            raise BackendUnavailableError(
                f"variant {variant.id!r}: {name} requested, the session runs on {', '.join(running)}",
                hint=row.hint,
            )
        if counts and (left := computes_beside_sizes(session)):
            raise _not_whole(self._source, name, f"it leaves {left} to the processor")
        return session

    def _new_session(self, settings: Any, providers: list[Any]) -> Any:
        """Return a session; without the precise kernels if the file's unsigned weights have none."""
        model = self._model(settings)
        try:
            return self._ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)
        except Exception as cause:
            # onnxruntime 1.32 rewrites a shared unsigned weight in one of its nodes only, and then finds
            # no kernel for the others
            if "NOT_IMPLEMENTED" not in str(cause) or "QLinear" not in str(cause):
                raise
            logger.warning(
                "%s runs without ONNX Runtime's precise int8 kernels: %s", self._source, short(cause)
            )
            settings.add_session_config_entry(_PRECISE, "0")
            return self._ort.InferenceSession(model, settings, providers=providers, enable_fallback=0)

    def _model(self, settings: Any) -> str | bytes:
        """Return the path or bytes to open; weights in files of their own are added by name."""
        source = self._source
        if source.path is not None:
            return str(source.path)
        if len(source.parts) > 1:
            weights = list(source.parts[1:])
            names = list(source.part_names[1 : len(source.parts)])
            settings.add_external_initializers_from_files_in_memory(names, weights, list(map(len, weights)))
        return source.parts[0]

    def _nodes(self) -> list[Any]:
        return [*self._session.get_inputs(), *self._session.get_outputs()]

    def _bind_inputs(self, options: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
        specs = []
        for node in self._session.get_inputs():
            sizes = [size if isinstance(size, int) else -1 for size in node.shape]
            shape = fixed_shape(node.name, sizes, options)
            dtype = _dtype(self._source, node)
            array = np.full(shape, "", TEXT) if dtype == TEXT else np.zeros(shape, dtype)
            self._arrays[node.name] = array
            if self._is_bound:
                value = self._ort.OrtValue.ortvalue_from_numpy(array)
                self._binding.bind_ortvalue_input(node.name, value)
                self._values.append((node.name, value))
            specs.append(make_spec(node.name, array.dtype, shape, self._quantization.get(node.name)))
        return tuple(specs)

    def _bind_outputs(self) -> tuple[TensorSpec, ...]:
        """Bind our own memory to outputs of known size; the runtime allocates the others."""
        known = {
            size: bound
            for node in self._session.get_inputs()
            for size, bound in zip(node.shape, self._arrays[node.name].shape, strict=True)
            if isinstance(size, str)
        }
        specs = []
        for node in self._session.get_outputs():
            shape = tuple(
                known.get(size, -1) if isinstance(size, str) else -1 if size is None else size
                for size in node.shape
            )
            dtype = _dtype(self._source, node)
            if node.type in _MAPS:
                shape = (-1, -1)
            if not self._is_bound:
                pass  # the runtime makes it
            elif all(size >= 0 for size in shape):
                array = np.zeros(shape, dtype)
                self._binding.bind_ortvalue_output(node.name, self._ort.OrtValue.ortvalue_from_numpy(array))
                self._results[node.name] = array
            else:
                self._binding.bind_output(node.name, "cpu")  # keeps the order of the outputs
            specs.append(make_spec(node.name, dtype, shape, self._quantization.get(node.name)))
        return tuple(specs)


def _import_library(options: Mapping[str, Any]) -> Any:
    is_late = "onnxruntime" in sys.modules  # the program has imported it itself
    # from 1.29 on it writes an id of the machine into the home folder and reports to its maker
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as cause:
        raise cannot_import("onnxruntime", cause) from cause
    if is_late:
        onnxruntime.disable_telemetry_events()  # the most that works after the import
    plugin = options.get("provider_library")
    if plugin is not None:
        try:
            onnxruntime.register_execution_provider_library(plugin["name"], plugin["path"])
        except Exception as cause:  # the library's exceptions have no common base
            raise BackendUnavailableError(
                f"the provider library {plugin!r} cannot be loaded: {short(cause)}"
            ) from cause
    return onnxruntime


def _requested_provider(ort: Any, variant: Variant, options: Mapping[str, Any]) -> str:
    name = str(options.get("provider") or name_in("onnxruntime", variant.accelerator) or "")
    if not name:
        kinds = [row.kind for row in ROWS if "onnxruntime" in row.runs]
        raise BackendUnavailableError(
            f"variant {variant.id!r}: onnxruntime cannot run on {variant.accelerator!r}",
            hint="set options.provider to an execution provider's name"
            if variant.accelerator == "delegate"
            else f"onnxruntime runs on {', '.join(kinds)} and 'ort:' with a provider",
        )
    if name == _FORBIDDEN:
        raise ConfigError(
            f"{_FORBIDDEN} sends tensors to a server and is never used", hint="name another provider"
        )
    present = [known for known in ort.get_available_providers() if known != _FORBIDDEN]
    if name not in present:
        hint = provider(name).hint
        raise BackendUnavailableError(
            f"variant {variant.id!r}: this onnxruntime lacks {name} (it has {', '.join(present)})",
            hint=hint or f"install a build of onnxruntime with {name}",
        )
    return name


def _session_options(ort: Any, options: Mapping[str, Any]) -> Any:
    settings = ort.SessionOptions()
    # On x86-64 without VNNI the fast kernels add products of u8 and s8 in 16 bits and saturate: a
    # published int8 model then answers wrongly without an error. No effect where the CPU has VNNI.
    # Source: onnxruntime_session_options_config_keys.h, kOrtSessionOptionsAvx2PrecisionMode.
    settings.add_session_config_entry(_PRECISE, "1")
    settings.intra_op_num_threads = thread_count(options)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.enable_cpu_mem_arena = bool(options.get("arena", True))
    level = options.get("optimization", "all")
    if level not in _OPTIMIZATION:
        raise ConfigError(f"option 'optimization': want one of {', '.join(_OPTIMIZATION)}, got {level!r}")
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _OPTIMIZATION[level])
    if not options.get("spinning", True):
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def _load_failure(source: ModelSource, variant: Variant, name: str, cause: Exception) -> BackendError:
    if name != CPU and "fallback" in str(cause):
        return _not_whole(source, name, short(cause))
    if name != CPU and _says_lost(cause):
        return BackendUnavailableError(
            f"variant {variant.id!r}: {name} does not start: {short(cause)}", hint=provider(name).hint
        )
    return refused(source, "onnxruntime", cause)


def _not_whole(source: ModelSource, name: str, reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"{source}: {name} cannot run the whole model: {reason}",
        hint="publish a variant this accelerator takes whole, or a CPU variant",
    )


def _says_lost(cause: Exception) -> bool:
    """Whether a provider's message is about its device or driver, and not the model."""
    signs = ("device", "driver", "cuda failure", "cudnn", "ze_result", "no such file", "ld_library_path")
    return any(sign in str(cause).lower() for sign in signs)


_MAPS = {f"seq(map({key},tensor(float)))": DTYPES["FP32"] for key in ("int64", "string")}
_NUMPY = {f"tensor({dtype.name})": dtype for dtype in DTYPES.values()} | {
    "tensor(float)": DTYPES["FP32"],
    "tensor(double)": DTYPES["FP64"],
}


def _dtype(source: ModelSource, node: Any) -> Any:
    try:
        return TEXT if node.type == "tensor(string)" else (_MAPS | _NUMPY)[node.type]
    except KeyError:
        raise no_datatype(f"{source}: tensor {node.name!r}", node.type) from None


def _columns(rows: list[Mapping[Any, float]]) -> NDArray[np.float32]:
    """Return a map for each row as shape (rows, keys), float32, in the order of the first row's keys."""
    keys = list(rows[0]) if rows else []
    return np.array([[row[key] for key in keys] for row in rows], np.float32).reshape(len(rows), len(keys))
