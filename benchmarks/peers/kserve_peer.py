"""KServe's SDK with JSON, its faster way: python kserve_peer.py PORT MODEL."""

import sys

import numpy as np
import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer


def metadata_of(spec):
    """Return a tensor's row."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "datatype": "FP32", "shape": shape}


class Peer(Model):
    """One model in the server's own process."""

    def __init__(self):
        super().__init__("m")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        self.ready = True

    async def get_input_types(self):
        """Return the metadata of the inputs."""
        return [metadata_of(spec) for spec in self.session.get_inputs()]

    async def get_output_types(self):
        """Return the metadata of the outputs."""
        return [metadata_of(spec) for spec in self.session.get_outputs()]

    def predict(self, payload, headers=None, response_headers=None):  # noqa: ARG002 - KServe's signature
        """Run the model."""
        array = payload.inputs[0].as_numpy().astype(np.float32)
        output = self.session.run(None, {self.spec.name: array})[0]
        row = InferOutput("y", list(output.shape), "FP32", data=output.ravel().tolist())
        return InferResponse(payload.id or "1", self.name, [row])


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([Peer()])
