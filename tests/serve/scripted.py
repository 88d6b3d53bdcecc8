"""A model that a test holds in its hand, and a server of it."""

import asyncio
import contextlib
import threading

import httpx
import numpy as np

from edgekit.core.errors import TensorError
from edgekit.core.spec import Item, Prediction, TensorSpec
from edgekit.serve import server as served_by
from edgekit.serve.address import Address, listening
from edgekit.serve.app import App
from edgekit.serve.models import Entry, Models
from edgekit.serve.ports import Limits, Offer
from edgekit.serve.replicas import Replicated
from edgekit.serve.routes import Access

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1, 4))


class Scripted:
    """Doubles its input; waits in ``infer`` while the gate is shut; fails as it is told."""

    platform = "scripted"
    optional_inputs = frozenset()
    takes_images = True
    sample_files = frozenset({"table"})
    states = steps = ()
    labels = ("a", "b", "c", "d")

    def __init__(self, variant="first", inputs=(X,), outputs=(Y,), batch=1, together=None, keeps_state=False):
        self.batch, self.together, self.keeps_state = batch, together, keeps_state
        self.variant, self.inputs, self.outputs = variant, inputs, outputs
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.errors, self.runs, self.is_closed = [], [], False
        self.raw = None
        self.opened_in = threading.current_thread()
        self.closed_in = None

    def infer(self, feeds):
        self.entered.release()
        self.gate.wait(60)
        self.runs.append({name: np.array(feed) for name, feed in feeds.items()})
        if self.errors:
            raise self.errors.pop(0)
        return {spec.name: 2 * feeds[self.inputs[0].name] for spec in self.outputs}

    def open_together(self):
        return self.together(self)

    def predict(self, image):
        if len(image) < 40:
            raise TensorError("the image cannot be decoded")
        if self.raw is not None:
            return Prediction(task="classify", tensors={"scores": self.raw})
        return Prediction(task="classify", items=(Item(label="cat", score=0.5),))

    def predict_samples(self, data, kind):
        return [({"row": 0}, self.predict(data))]

    def status(self):
        return {"variant": self.variant, "why": "it is the only one"}

    def close(self):
        self.is_closed, self.closed_in = True, threading.current_thread()


class Opener:
    """Opens scripted models and keeps them."""

    def __init__(self, **options):
        self.options, self.opened, self.excluded, self.errors = options, [], [], []

    def __call__(self):
        return ScriptedHeld(self)

    def open(self, exclude):
        if self.errors:
            raise self.errors.pop(0)
        self.excluded.append(dict(exclude))
        variant = "second" if "first" in exclude else "first"
        self.opened.append(Scripted(variant, **self.options))
        return self.opened[-1]


class ScriptedHeld:
    """Goes to the second model when the first is lost; ``switch`` is what brings the first back."""

    def __init__(self, opener):
        self.opener, self.excluded, self.switch = opener, {}, None
        self.servable = opener.open({})
        opener.held = self

    def fail_over(self, lost, error):
        self.excluded[lost.variant] = error.message
        lost.close()
        self.servable = self.opener.open(self.excluded)
        return self.servable

    def watch(self, switch):
        self.switch = switch

    def status(self):
        return {"excluded": self.excluded, "failed_returns": 0}

    def close(self):
        self.servable.close()


class Served:
    """A running server, and what is behind it."""

    def __init__(self, urls, app, entries):
        self.url, self.app, self.entries = urls[0], app, entries
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def infer(self, values, model="double", **more):
        values = np.asarray(values, np.float32).reshape(-1, 4)
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": list(values.shape),
            "data": values.ravel().tolist(),
        }
        return self.client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], **more})


@contextlib.contextmanager
def served(*offers, limits=None, access=None, address=None, jobs=None):
    """Serve offers, or one scripted model, on real sockets."""
    limits = limits or Limits(inline_s=0.0)
    entries = [
        Replicated(offer, limits, needs_all=True) if offer.replicas else Entry(offer, limits)
        for offer in offers
    ]
    opened, tasks = threading.Event(), []

    async def load():
        for entry in entries:
            await entry.load()
        opened.set()

    def begin():
        if not tasks:
            tasks.append(asyncio.get_running_loop().create_task(load()))

    app = App(Models(entries), access or Access(), limits, "0", on_change=begin, jobs=jobs)
    try:
        with background(app, address or Address("127.0.0.1", 0), limits) as urls:
            assert opened.wait(60)
            running = Served(urls, app, entries)
            with running.client:
                yield running
    finally:
        for entry in entries:
            entry.end()


@contextlib.contextmanager
def background(app, address, limits):
    """Serve from a thread of this process for the length of the block; yields the URLs."""
    uvicorn = served_by._uvicorn()
    config = served_by._config(uvicorn, app, limits, "", "")
    served_by.load(config, app, limits)
    server = uvicorn.Server(config)
    with listening(address) as (sockets, urls):
        for bound in sockets:
            bound.listen(128)  # a request that is sent before the loop runs waits, and is answered
        thread = threading.Thread(target=server.run, args=(sockets,), name="serve", daemon=True)
        thread.start()
        try:
            yield urls
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def doubling(name="double", version="1.0.0", **options):
    """Return an offer of a scripted model, and its opener."""
    opener = Opener(**options)
    return Offer(name, version, opener), opener
