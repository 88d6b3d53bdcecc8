"""mosec with raw bytes, its fastest way: python mosec_peer.py --port PORT; the model is in PEER_MODEL."""

import os

import numpy as np
import onnxruntime
from mosec import Server, Worker


class Model(Worker):
    """One model in one worker process."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        self.shape = [size if isinstance(size, int) else 1 for size in self.spec.shape]

    def deserialize(self, data):
        """Return the array."""
        return np.frombuffer(data, np.float32).reshape(self.shape)

    def forward(self, data):
        """Run the model."""
        return self.session.run(None, {self.spec.name: data})[0]

    def serialize(self, data):
        """Return the bytes."""
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1)
    server.run()
