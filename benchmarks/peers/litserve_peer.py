"""LitServe with JSON lists: python litserve_peer.py PORT MODEL."""

import sys

import litserve
import numpy as np
import onnxruntime


class Api(litserve.LitAPI):
    """One model in one worker process."""

    def setup(self, device):  # noqa: ARG002 - LitServe's signature
        """Open the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        self.shape = [size if isinstance(size, int) else 1 for size in self.spec.shape]

    def decode_request(self, request):
        """Return the array."""
        return np.asarray(request["data"], np.float32).reshape(self.shape)

    def predict(self, x):
        """Run the model."""
        return self.session.run(None, {self.spec.name: x})[0]

    def encode_response(self, output):
        """Return the document."""
        return {"data": output.ravel().tolist()}


if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error"
    )
