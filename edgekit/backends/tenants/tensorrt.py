"""TensorRT (8.5 or newer) through the bindings of JetPack's system Python, ``python3-libnvinfer``.

An engine fits one TensorRT version on one kind of GPU. It is built on the device, once, and kept in
``cache`` under the hash of the model, the version, the GPU's architecture and the precision. Device
memory is handled with the CUDA runtime through ctypes: JetPack has no Python package for it.

Written from NVIDIA's documentation and tested with stand-ins for the library; not yet run on a GPU.
"""

import contextlib
import ctypes
import hashlib
import importlib
import os
from pathlib import Path

_DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
_CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_MAJOR, _MINOR = 75, 76  # Source: CUDA Runtime API, cudaDevAttrComputeCapabilityMajor and Minor.
_TO_DEVICE, _TO_HOST = 1, 2  # Source: CUDA Runtime API, cudaMemcpyKind.
_WORKSPACE_BYTES = 1 << 30


def load(request: "dict[str, Any]", fail: "Any") -> "TensorRt":
    """Return the engine of a model, from the cache or built now."""
    trt = importlib.import_module("tensorrt")  # not this file
    cuda = _Cuda(fail)
    logger = trt.Logger(trt.Logger.WARNING)
    data = Path(request["model"]).read_bytes()
    cached = _cache_file(request, data, trt.__version__, cuda.compute())
    runtime = trt.Runtime(logger)
    engine = None
    if cached is not None and cached.exists():
        engine = runtime.deserialize_cuda_engine(cached.read_bytes())  # None if the file is damaged
    if engine is None:
        serialized = _build(trt, logger, data, request, fail)
        if cached is not None:
            _write(cached, serialized)
        engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        raise fail("load", "TensorRT does not load the engine it built")
    return TensorRt(trt, engine, cuda, fail)


class TensorRt:
    """One engine, its execution context, and device memory for each tensor."""

    def __init__(self, trt: "Any", engine: "Any", cuda: "_Cuda", fail: "Any") -> None:
        self.inputs = []  # type: list[dict[str, Any]]
        self.outputs = []  # type: list[dict[str, Any]]
        self.accelerator = "tensorrt"
        self.version = trt.__version__
        self._fail = fail
        self._cuda = cuda
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise fail("unavailable", "TensorRT creates no execution context: not enough device memory?")
        self._memory = {}  # type: dict[str, tuple[Any, int]]
        self._host = {}  # type: dict[str, Any]
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            kind = _DATATYPES.get(engine.get_tensor_dtype(name).name, "")
            row = {
                "name": name,
                "datatype": kind,
                "shape": [int(size) for size in engine.get_tensor_shape(name)],
            }
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs).append(row)

    def bind(self, inputs: "dict[str, memoryview]", outputs: "dict[str, memoryview]") -> None:
        """Take the tensors' memory, and reserve as much on the device."""
        for name, view in list(inputs.items()) + list(outputs.items()):
            device = self._cuda.reserve(len(view))
            self._memory[name] = (device, len(view))
            self._host[name] = (ctypes.c_char * len(view)).from_buffer(view)
            if not self._context.set_tensor_address(name, device.value):
                raise self._fail("load", "TensorRT refuses memory for tensor " + name)

    def run(self) -> None:
        """Copy in, execute, copy out, and wait for the end."""
        for row in self.inputs:
            device, size = self._memory[row["name"]]
            self._cuda.copy(device, self._host[row["name"]], size, _TO_DEVICE)
        if not self._context.execute_async_v3(self._cuda.stream.value or 0):
            raise self._fail("inference", "TensorRT does not execute the engine")
        self._cuda.wait()
        for row in self.outputs:
            device, size = self._memory[row["name"]]
            self._cuda.copy(self._host[row["name"]], device, size, _TO_HOST)

    def reset(self) -> None:
        """Do nothing: an engine keeps no state."""

    def close(self) -> None:
        """Free the device's memory."""
        for device, _ in self._memory.values():
            self._cuda.free(device)
        self._memory = {}
        self._context = None
        self._engine = None


class _Cuda:
    """The CUDA runtime functions that inference needs; an error means a lost device."""

    def __init__(self, fail: "Any") -> None:
        self._fail = fail
        self._library = _first_library(fail)
        self.stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(self.stream), kind="unavailable")

    def compute(self) -> str:
        """Return the GPU's architecture, such as ``sm87``."""
        values = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0, kind="unavailable")
            values.append(str(value.value))
        return "sm" + "".join(values)

    def reserve(self, size: int) -> "ctypes.c_void_p":
        device = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(device), ctypes.c_size_t(size), kind="load")
        return device

    def free(self, device: "ctypes.c_void_p") -> None:
        self._library.cudaFree(device)

    def copy(self, target: "Any", source: "Any", size: int, direction: int) -> None:
        self._call("cudaMemcpy", target, source, ctypes.c_size_t(size), direction)

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self.stream)

    def _call(self, name: str, *arguments: "Any", kind: str = "accelerator_lost") -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise self._fail(kind, f"{name} failed with CUDA error {code}")


def _first_library(fail: "Any") -> "Any":
    for name in _CUDART:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise fail("unavailable", "the CUDA runtime is not there: tried " + ", ".join(_CUDART))


def _cache_file(request: "dict[str, Any]", data: bytes, version: str, compute: str) -> "Path | None":
    if request["cache"] is None:
        return None
    shapes = "".join(f"{name}{shape}" for name, shape in sorted(request["shapes"].items()))
    shapes += str(request["batch"]) if request["batch"] > 1 else ""
    digest = hashlib.sha256(data + shapes.encode("utf-8")).hexdigest()
    return Path(request["cache"]) / f"{digest}-{version}-{compute}-{request['precision']}.engine"


def _write(path: Path, serialized: "Any") -> None:
    """Write an engine so that a power cut leaves the whole file or none."""
    part = path.with_suffix(f".{os.getpid()}")
    with part.open("wb") as file:
        file.write(memoryview(serialized))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _build(trt: "Any", logger: "Any", data: bytes, request: "dict[str, Any]", fail: "Any") -> "Any":
    builder = trt.Builder(logger)
    # TensorRT 10 has explicit batches only, and the flag for them disappears with 11.
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise fail("load", "TensorRT does not read the model: " + errors)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    for precision, flag in (("fp16", "FP16"), ("int8", "INT8"), ("int8", "FP16")):
        if request["precision"] == precision and hasattr(trt.BuilderFlag, flag):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    _fix_shapes(builder, network, config, request, fail)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise fail("load", "TensorRT builds no engine of the model; the worker's log says why")
    return serialized


def _fix_shapes(
    builder: "Any", network: "Any", config: "Any", request: "dict[str, Any]", fail: "Any"
) -> None:
    profile = builder.create_optimization_profile()
    is_needed = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [int(size) for size in tensor.shape]
        if min(shape, default=1) >= 0:
            continue
        fixed = tuple(
            request["shapes"].get(tensor.name) or ([request["batch"], *shape[1:]] if shape[0] < 0 else shape)
        )
        if min(fixed) < 0:
            raise fail("load", f"input {tensor.name} has free dimensions {shape}: state options.shapes")
        profile.set_shape(tensor.name, fixed, fixed, fixed)
        tensor.shape = fixed
        is_needed = True
    if is_needed:
        config.add_optimization_profile(profile)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
