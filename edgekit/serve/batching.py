"""Several requests in one run of a model: opened beside it, measured, and used where that pays.

While a model answers already, it is opened once more for ``Servable.batch`` requests (in a thread), and both
are timed on the lane. Where a batch saves less than 15 %, it is closed again.
"""

from __future__ import annotations

import functools
import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.base.dtypes import DTYPES, TEXT
from edgekit.base.entry import Entry
from edgekit.base.joint import Joint
from edgekit.base.lane import Lane
from edgekit.base.rows import copied
from edgekit.core.errors import AcceleratorLostError, EdgekitError
from edgekit.serve.errors import HttpError
from edgekit.serve.lane import Unwritten
from edgekit.serve.ports import Servable, Together

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_TIMED = 5


class Work(Protocol):
    """One request of one row; called, it runs alone."""

    def __call__(self) -> Any:
        """Return its result."""

    def feeds(self, servable: Servable) -> Mapping[str, NDArray[Any]]:
        """Return its tensors; raises ``EdgekitError``."""

    def done(self, servable: Servable, outputs: Mapping[str, NDArray[Any]], took_s: float) -> Any:
        """Return its result, given its outputs."""


class Batching:
    """The batches of one served model; all but ``joint`` and ``status`` belong to the lane's thread.

    Args:
        lane: The model's.
        run: Gives its argument the model that runs, and replaces that where it is lost.
    """

    def __init__(self, lane: Lane, run: Callable[[Callable[[Servable], Any]], Any]) -> None:
        self.joint: Joint | None = None
        self._lane, self._run = lane, run
        self._servable: Servable | None = None
        self._together: Together | None = None
        self._why = ""

    def use(self, servable: Servable | None) -> None:
        """Forget what was for the last model; open and measure this one's."""
        self.joint, self._servable, self._why = None, servable, ""
        together, self._together = self._together, None
        if together is not None:
            together.close()
        if servable is not None and servable.batch > 1:
            self._why = "it is being measured"
            threading.Thread(target=self._open, args=(servable,), name="batching", daemon=True).start()

    def status(self) -> dict[str, Any]:
        """Return the size of a batch, 1 for none; why; and how many requests ran in how many batches."""
        counts = self._lane.counts
        return {
            "most": self.joint.most_rows if self.joint else 1,
            "why": self._why or "the manifest lists no batch sizes for this variant",
            "batches": counts.batches,
            "requests": counts.batched,
        }

    def _open(self, servable: Servable) -> None:
        try:
            together = servable.open_together()
        except EdgekitError as error:
            self._why = error.one_line()
            logger.warning("variant %s runs requests one by one: %s", servable.variant, self._why)
            return
        self._lane.control(functools.partial(self._measure, servable, together), on_done=_log_bug)

    def _measure(self, servable: Servable, together: Together) -> None:
        if servable is not self._servable:  # it was replaced meanwhile
            together.close()
            return
        feeds, size = _zeros(servable), servable.batch
        try:
            alone_s = _typical_s(lambda: servable.infer(feeds))
            batch_s = _typical_s(lambda: together.run([feeds] * size))
        except EdgekitError as error:
            self._why = error.one_line()
            together.close()
            return
        joint = Joint(self._run_at_once, size)
        joint.fit.add(size, batch_s)
        self._why = f"{size} at once took {batch_s * 1e3:.3f} ms, one {alone_s * 1e3:.3f} ms"
        if not joint.pays(size, alone_s):
            together.close()
            return
        for _ in range(_TIMED):
            self._lane.pace("infer").add(alone_s)
        self._together, self.joint = together, joint

    def _run_at_once(self, works: Sequence[Any]) -> Sequence[Any]:
        together = self._together
        if together is None:  # the model was replaced since they came
            return [_result(work) for work in works]
        try:
            return self._run(functools.partial(_at_once, works, together))  # type: ignore[no-any-return]
        except AcceleratorLostError:
            raise
        except EdgekitError:  # of one of them, maybe
            return [_result(work) for work in works]


def _at_once(works: Sequence[Work], together: Together, servable: Servable) -> list[Any]:
    results: list[Any] = [_result(functools.partial(work.feeds, servable)) for work in works]
    fed = [number for number, result in enumerate(results) if not isinstance(result, Exception)]
    began_s = time.perf_counter()
    outputs = together.run([results[number] for number in fed]) if fed else ()
    took_s = time.perf_counter() - began_s
    for number, output in zip(fed, outputs, strict=True):
        copies = {name: copied(array) for name, array in output.items()}
        results[number] = Unwritten(works[number], servable, copies, took_s)
    return results


def _result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (EdgekitError, HttpError) as error:
        return error


def _zeros(servable: Servable) -> dict[str, NDArray[Any]]:
    """Return a request of zeros and empty texts."""
    feeds: dict[str, NDArray[Any]] = {}
    for spec in servable.inputs:
        if spec.name not in servable.optional_inputs:
            shape = [max(length, 1) for length in spec.shape]
            is_text = spec.datatype == "BYTES"
            feeds[spec.name] = np.full(shape, "", TEXT) if is_text else np.zeros(shape, DTYPES[spec.datatype])
    return feeds


def _typical_s(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(_TIMED):
        began_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def _log_bug(entry: Entry) -> None:
    if entry.error is not None:
        logger.critical("measuring a batch ended in a bug", exc_info=entry.error)
