"""MLServer's runtime for the same model; the settings that serving_vs_peers.py writes name it."""

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Model(MLModel):
    """One model in the server's own process."""

    async def load(self):
        """Open the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        return True

    async def predict(self, payload):
        """Run the model."""
        array = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        output = self.session.run(None, {self.spec.name: array})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", output)])
