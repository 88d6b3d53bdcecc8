"""Small models, sources and sinks for the tests of pipelines."""

import threading

import msgspec
import numpy as np

from edgekit.backends.null import NullBackend
from edgekit.core.ports import Frame
from edgekit.core.spec import Item, Manifest, Post, Pre, Prediction, TensorSpec, Variant
from edgekit.pipeline.predictor import Predictor


def spec(name, shape, datatype="FP32", **rest):
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape), **rest)


def image_input(height=8, width=8, channels=3):
    return spec("image", (1, height, width, channels), "UINT8", layout="NHWC")


def make_manifest(task="classify", inputs=None, outputs=None, pre=None, post=None, state=(), version="1.0.0"):
    return Manifest(
        format=1,
        model="fake",
        version=version,
        task=task,
        inputs=tuple(inputs or (image_input(),)),
        outputs=tuple(outputs or (spec("scores", (1, 3)),)),
        pre=pre or Pre(),
        post=post or Post(decoder="classify"),
        state=tuple(state),
        variants=(make_variant(),),
    )


def make_variant(**fields):
    return Variant(**{"id": "null", "backend": "null", **fields})


def make_predictor(
    manifest=None, values=None, labels=("a", "b", "c"), variant=None, make=Predictor, **options
):
    """A predictor on the null backend; ``values`` are the outputs' contents by name."""
    manifest = manifest or make_manifest()
    variant = variant or make_variant()
    values = {"scores": [[0.1, 0.8, 0.1]]} if values is None else values
    tensors = {
        "inputs": {t.name: {"datatype": "FP32", "shape": list(t.shape)} for t in manifest.inputs},
        "outputs": {
            t.name: {"datatype": "FP32", "shape": list(t.shape), "value": values.get(t.name, 0)}
            for t in manifest.outputs
        },
    }
    return make(manifest, variant, NullBackend(None, variant, tensors | options), labels)


class ArrayBackend:
    """Gives what a function of its inputs gives; records what it was fed."""

    accelerator = "cpu"

    def __init__(self, inputs, outputs, function):
        self.inputs, self.outputs, self._function = tuple(inputs), tuple(outputs), function
        kinds = {
            "FP32": np.float32,
            "INT8": np.int8,
            "UINT8": np.uint8,
            "FP16": np.float16,
            "INT32": np.int32,
        }
        self.arrays = {t.name: np.zeros(t.shape, kinds[t.datatype]) for t in self.inputs}
        self.runs = 0

    def view(self, name):
        return self.arrays[name]

    def run(self):
        self.runs += 1
        return self._function(self.arrays)

    def infer(self, feeds):
        for name, feed in feeds.items():
            self.arrays[name][...] = feed
        return self.run()

    def close(self):
        self.arrays = {}


class ListSource:
    """Gives frames that are made before, then ends; or, if endless, waits to be closed."""

    def __init__(self, count, *, is_live=False, make=None, endless=False, seqs=None, wait_s=0.0):
        self.is_live, self._endless, self._wait_s = is_live, endless, wait_s
        self._make = make or (lambda n: np.full((8, 8, 3), n % 256, np.uint8))
        self._seqs = list(range(count)) if seqs is None else list(seqs)
        self.closed = threading.Event()
        self.given = 0
        self.opened = 0

    def open(self):
        self.opened += 1

    def read(self):
        if self._wait_s:
            self.closed.wait(self._wait_s)
        if self.given >= len(self._seqs):
            if self._endless:
                self.closed.wait()
            return None
        import time

        seq = self._seqs[self.given]
        self.given += 1
        return Frame(self._make(seq), seq, time.monotonic_ns(), time.time_ns() // 1_000_000)

    def close(self):
        self.closed.set()


class ListSink:
    """Keeps what it is given."""

    def __init__(self, on_write=None):
        self.results, self.closed, self._on_write = [], 0, on_write

    def write(self, result):
        self.results.append(result)
        if self._on_write is not None:
            self._on_write(result)

    def close(self):
        self.closed += 1

    @property
    def seqs(self):
        return [result.frame.seq for result in self.results]


def prediction(task, *labels, box=None, index=1):
    items = tuple(Item(label=label, score=0.9, index=index, box=box) for label in labels)
    return Prediction(task=task, items=items)


def replaced(struct, **fields):
    return msgspec.structs.replace(struct, **fields)
