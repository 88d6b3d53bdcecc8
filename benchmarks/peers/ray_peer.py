"""Ray Serve with raw bytes, its fastest way: python ray_peer.py PORT MODEL."""

import sys
import threading

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=64)
class Peer:
    """One model in one replica."""

    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.spec = self.session.get_inputs()[0]
        self.shape = [size if isinstance(size, int) else 1 for size in self.spec.shape]

    async def __call__(self, request):
        """Run the model."""
        array = np.frombuffer(await request.body(), np.float32).reshape(self.shape)
        return Response(self.session.run(None, {self.spec.name: array})[0].tobytes())


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Peer.bind(sys.argv[2]), route_prefix="/")
    threading.Event().wait()
