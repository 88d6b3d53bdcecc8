"""MYRIAD (Neural Compute Stick 2) through OpenVINO 2021.4.2, the last wheel that drives it.

Its Python is 3.6 to 3.9, x86-64. It reads ONNX (opset 13 at most) and IR of version 10, floats only.
``device`` is OpenVINO's name of the device, by default ``MYRIAD``.
"""

import importlib

_DATATYPES = {"FP32": "FP32", "FP16": "FP16", "U8": "UINT8", "I8": "INT8", "I32": "INT32", "I64": "INT64"}
_LOST = ("NC_ERROR", "X_LINK", "XLink", "Can not init", "device not found", "DEVICE_NOT_FOUND")


def load(request: "dict[str, Any]", fail: "Any") -> "Myriad":
    """Return the model, compiled for the stick.

    ``query_network``, which needs no stick, names what it lacks; a failed compilation would not.
    """
    from openvino import inference_engine  # the foreign interpreter's, not ours

    core = inference_engine.IECore()
    network = core.read_network(model=request["model"])
    if request["shapes"]:
        network.reshape({name: tuple(shape) for name, shape in request["shapes"].items()})
    device = request["device"] or "MYRIAD"
    try:
        supported = core.query_network(network=network, device_name=device)
    except RuntimeError as fault:  # a library that the plugin needs (libusb) is missing
        raise fail("unavailable", str(fault)) from fault
    unknown = sorted(set(_operations(network)) - set(supported))
    if unknown:
        raise fail(
            "load", "{} cannot run {} operations: {}".format(device, len(unknown), ", ".join(unknown[:5]))
        )
    config = {"CPU_THREADS_NUM": str(request["threads"])} if device == "CPU" else {}
    if device not in _present(core):
        raise fail("unavailable", "{} is not among the devices {}".format(device, ", ".join(_present(core))))
    try:
        executable = core.load_network(network, device, config, num_requests=1)
    except RuntimeError as fault:
        raise fail("unavailable" if _says_lost(fault) else "load", str(fault)) from fault
    return Myriad(network, executable, device, inference_engine.__version__, fail)


class Myriad:
    """One network on one stick."""

    def __init__(self, network: "Any", executable: "Any", device: str, version: str, fail: "Any") -> None:
        inputs, outputs = network.input_info, network.outputs
        self.inputs = [_tensor(name, info.precision, info.input_data.shape) for name, info in inputs.items()]
        self.outputs = [_tensor(name, data.precision, data.shape) for name, data in outputs.items()]
        self.accelerator = device.split(".", maxsplit=1)[0].lower()
        self.version = version
        self._fail = fail
        self._executable = executable
        self._request = executable.requests[0]
        self._shared_inputs = {}  # type: dict[str, Any]
        self._shared_outputs = {}  # type: dict[str, Any]

    def bind(self, inputs: "dict[str, memoryview]", outputs: "dict[str, memoryview]") -> None:
        """Take the memory of the tensors; the stick's blobs are copied from and to it."""
        self._shared_inputs = {row["name"]: _array(row, inputs[row["name"]]) for row in self.inputs}
        self._shared_outputs = {row["name"]: _array(row, outputs[row["name"]]) for row in self.outputs}

    def run(self) -> None:
        """Infer once."""
        # Fetched for every run: a blob fetched before an inference shows freed memory after it.
        blobs = self._request.input_blobs
        for name, shared in self._shared_inputs.items():
            blobs[name].buffer[...] = shared
        try:
            self._request.infer()
        except RuntimeError as fault:
            raise self._fail("accelerator_lost" if _says_lost(fault) else "inference", str(fault)) from fault
        blobs = self._request.output_blobs
        for name, shared in self._shared_outputs.items():
            shared[...] = blobs[name].buffer

    def reset(self) -> None:
        """Forget the state of a recurrent model."""
        for state in self._request.query_state():
            state.reset()

    def close(self) -> None:
        """Free the stick."""
        self._shared_inputs, self._shared_outputs = {}, {}
        self._request = None
        self._executable = None


def _operations(network: "Any") -> "list[str]":
    ngraph = importlib.import_module("ngraph")  # comes with that release only
    function = ngraph.function_from_cnn(network)
    constants = ("Constant", "Parameter", "Result")
    return [
        node.friendly_name for node in function.get_ordered_ops() if node.get_type_name() not in constants
    ]


def _present(core: "Any") -> "list[str]":
    return [str(device) for device in core.available_devices]


def _says_lost(fault: BaseException) -> bool:
    return any(sign in str(fault) for sign in _LOST)


def _tensor(name: str, precision: str, shape: "Any") -> "dict[str, Any]":
    return {"name": name, "datatype": _DATATYPES.get(precision, precision), "shape": list(shape)}


def _array(row: "dict[str, Any]", memory: memoryview) -> "Any":
    import numpy as np

    kinds = {
        "FP32": np.float32,
        "FP16": np.float16,
        "UINT8": np.uint8,
        "INT8": np.int8,
        "INT32": np.int32,
        "INT64": np.int64,
    }
    return np.frombuffer(memory, kinds[row["datatype"]]).reshape(row["shape"])


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
