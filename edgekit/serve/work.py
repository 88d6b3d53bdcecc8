"""What one inference request runs on its model's lane, alone or in a batch, and its answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.serve.models import Entry
from edgekit.serve.oip import InferRequest, answer, feeds_of, json_tensors
from edgekit.serve.ports import Servable
from edgekit.serve.reply import Done, Reply, json_reply
from edgekit.serve.sent_files import IMAGE
from edgekit.serve.shared_memory import Regions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.base.entry import Entry as LaneEntry
    from edgekit.core.spec import Prediction

HEADER_LENGTH = b"inference-header-content-length"
_BINARY = (b"content-type", b"application/octet-stream")


class TensorWork:
    """A request of tensors; ``regions``: None for a client on another machine."""

    kind = "infer"
    asked: LaneEntry | None = None
    """Its place in the lane, if it waits for one: it may be given up while it runs."""

    def __init__(self, entry: Entry, request: InferRequest, regions: Regions | None) -> None:
        self._entry, self._request, self._regions = entry, request, regions
        self._pre_s = 0.0
        self._made_for: Servable | None = None
        self._made: Mapping[str, NDArray[Any]] = {}
        self.keeps = False
        self.kept: Mapping[str, NDArray[Any]] = {}
        """Copies of its outputs, if ``keeps`` was set before it ran."""

    @property
    def size_bytes(self) -> int:
        """The length of its tensors, as they came."""
        return len(self._request.tail) + sum(len(tensor.data) for tensor in self._request.envelope.inputs)

    def key(self) -> bytes:
        """Return a hash of its tensors as they were written; empty if some are in shared memory."""
        return self._request.content_hash()

    def again(self, kept: Mapping[str, NDArray[Any]]) -> Done:
        """Return its answer, given the outputs of an equal request."""
        return self.done(self._entry.require(), kept, 0.0)

    def kept_bytes(self) -> int:
        """Return the memory that ``kept`` takes."""
        return sum(sized(array) for array in self.kept.values())

    def __call__(self) -> Done:
        """Run it alone."""
        return self._entry.run(self.on)

    def on(self, servable: Servable) -> Done:
        """Return its answer by this model."""
        feeds, sequences = self.feeds(servable), self._entry.sequences
        step = self._request.step if servable.keeps_state else None
        if step is not None:
            feeds = {**sequences.state_before(step, servable), **feeds}
        began_s = time.perf_counter()
        outputs = servable.infer(feeds)
        done = self.done(servable, outputs, time.perf_counter() - began_s)
        if step is not None and not (
            self.asked and self.asked.done.is_set()
        ):  # the client has an answer then
            sequences.advance(step, servable, outputs)
        return done

    def prepare(self) -> None:
        """Make its tensors before its turn comes, unless that needs what belongs to the lane's thread.

        Raises:
            TensorError: They do not fit the model.
        """
        if self._request.is_binary:
            servable = self._entry.require()
            self._made, self._made_for = self.feeds(servable), servable

    def feeds(self, servable: Servable) -> Mapping[str, NDArray[Any]]:
        """Return its tensors."""
        if self._made_for is servable:
            return self._made
        began_s = time.perf_counter()
        feeds = feeds_of(
            self._request, servable.inputs, servable.optional_inputs, self._regions, self._entry.floats
        )
        self._pre_s = time.perf_counter() - began_s
        return feeds

    def done(self, servable: Servable, outputs: Mapping[str, NDArray[Any]], took_s: float) -> Done:
        """Return its answer."""
        began_s = time.perf_counter()
        if self.keeps:
            self.kept = {name: np.array(array) for name, array in outputs.items()}
        offer = self._entry.offer
        result = answer(self._request, offer.name, offer.version, outputs, servable.labels, self._regions)
        if result.header_length is None:
            reply = Reply(result.body)
        else:
            length = (HEADER_LENGTH, str(result.header_length).encode())
            reply = Reply(result.body, headers=(_BINARY, length))
        return Done(reply, self._pre_s, took_s, time.perf_counter() - began_s)


class PredictWork:
    """A file, answered with what the model makes of it; ``kind``: ``image``, ``sound`` or ``table``."""

    asked: LaneEntry | None = None
    """As a ``TensorWork``'s."""

    def __init__(self, entry: Entry, body: bytes, kind: str) -> None:
        self._entry, self._body, self._file = entry, body, kind
        self.kind = "predict" if kind == IMAGE else kind
        """What its pace is measured by: a sound of many windows is not as quick as a picture."""
        self.size_bytes, self.keeps = len(body), False
        self.kept: Reply | None = None

    def prepare(self) -> None:
        """Do nothing: a file is decoded by the model."""

    def key(self) -> bytes:
        """Return a hash of the file."""
        return hashlib.sha256(self._file.encode() + self._body).digest()

    def again(self, kept: Reply) -> Done:
        """Return an equal request's answer."""
        return Done(kept, 0.0, 0.0, 0.0)

    def kept_bytes(self) -> int:
        """Return the memory that ``kept`` takes."""
        return len(self.kept.body) if self.kept else 0

    def __call__(self) -> Done:
        """Run it."""
        return self._entry.run(self.on)

    def on(self, servable: Servable) -> Done:
        """Return its answer by this model."""
        began_s = time.perf_counter()
        if self._file == IMAGE:
            prediction = servable.predict(self._body)
            ran_s = time.perf_counter()
            results = {"task": prediction.task, **_results(prediction)}
        else:
            located = servable.predict_samples(self._body, self._file)
            ran_s = time.perf_counter()
            rows = [{**where, **_results(prediction)} for where, prediction in located]
            results = {"task": located[0][1].task, "predictions": rows}
        document = {
            "model_name": self._entry.offer.name,
            "model_version": self._entry.offer.version,
            "variant": servable.variant,
            **results,
        }
        reply = json_reply(document)
        if self.keeps:
            self.kept = reply
        return Done(reply, 0.0, ran_s - began_s, time.perf_counter() - ran_s)


def _results(prediction: Prediction) -> dict[str, Any]:
    results: dict[str, Any] = {"items": msgspec.to_builtins(prediction.items)}
    if prediction.tensors:
        results["tensors"] = json_tensors(prediction.tensors)
    return results


def sized(array: NDArray[Any]) -> int:
    """Return an array's bytes, with those of its texts."""
    return array.nbytes + (sum(len(text) for text in array.flat) if array.dtype.kind == "O" else 0)
