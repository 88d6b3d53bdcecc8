"""PyTriton with binary tensors: python pytriton_peer.py PORT MODEL."""

import sys

import numpy as np
import onnxruntime
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])


def shape(spec):
    """Return a tensor's shape, with free dimensions set to 1."""
    return [size if isinstance(size, int) else 1 for size in spec.shape]


def infer(requests):
    """Run the model for each request."""
    return [dict(zip(NAMES, session.run(None, {"x": request["x"]}), strict=True)) for request in requests]


if __name__ == "__main__":
    (given,), made = session.get_inputs(), session.get_outputs()
    NAMES = [spec.name for spec in made]
    settings = TritonConfig(
        http_address="127.0.0.1", http_port=int(sys.argv[1]), allow_grpc=False, allow_metrics=False
    )
    with Triton(config=settings) as triton:
        triton.bind(
            model_name="m",
            infer_func=infer,
            inputs=[Tensor(name=given.name, dtype=np.float32, shape=shape(given))],
            outputs=[Tensor(name=spec.name, dtype=np.float32, shape=shape(spec)) for spec in made],
            config=ModelConfig(batching=False),
        )
        triton.serve()
