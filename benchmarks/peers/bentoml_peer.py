"""BentoML with JSON: python -m bentoml serve bentoml_peer:Peer; the model is in PEER_MODEL."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Peer:
    """One model in one worker process."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = os.environ["PEER_MODEL"]
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        self.shape = [size if isinstance(size, int) else 1 for size in self.spec.shape]

    @bentoml.api
    def infer(self, data: np.ndarray) -> np.ndarray:
        """Run the model."""
        array = data.astype(np.float32).reshape(self.shape)
        return self.session.run(None, {self.spec.name: array})[0]
