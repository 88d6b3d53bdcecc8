"""Spreads a model's requests over its replicas: each waits for the one with the fewest outstanding requests.

A replica has a lane of its own, and all of them share one lock. So a request that waits for a replica which
is lost goes to the lane of another one, and nobody can give it up in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from edgekit.base.entry import Counts, Pace
from edgekit.base.entry import Entry as LaneEntry
from edgekit.base.lane import Lane
from edgekit.core.errors import AcceleratorLostError, BusyError, InferenceError
from edgekit.serve.errors import HttpError
from edgekit.serve.ports import Servable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.base.joint import Joint
    from edgekit.serve.models import Entry

T = TypeVar("T")
_ALIKE = 1.1
"""Run times within 10 % are the same: their replicas take turns."""
_OUT = 503
"""Of a request whose replica has nothing open when its turn comes."""


def least(loads: Sequence[tuple[int, float]], after: int) -> int:
    """Return the position of the replica that a request is to wait for.

    Of those with the fewest outstanding requests it is the one that will have answered first; where several
    are as fast, the next one in turn.

    >>> least([(2, 0.01), (1, 0.3), (1, 0.2)], after=2)
    2
    >>> least([(0, 0.2), (0, 0.21), (0, 0.2)], after=0)
    1

    Args:
        loads: Of each replica, the outstanding requests, and the typical seconds of one; 0: not measured yet.
        after: The position that was returned last.
    """
    fewest = min(outstanding for outstanding, _ in loads)
    free = [(at, run_s) for at, (outstanding, run_s) in enumerate(loads) if outstanding == fewest]
    fastest_s = min(run_s for _, run_s in free)
    alike = [at for at, run_s in free if run_s <= _ALIKE * fastest_s]
    return next((at for at in alike if at > after), alike[0])


class Work(Protocol):
    """A request, as any of the replicas can run it."""

    def on(self, servable: Servable) -> Any:
        """Return its answer by this model."""

    def feeds(self, servable: Servable) -> Mapping[str, NDArray[Any]]:
        """Return its tensors; for a request that may run in a batch."""

    def done(self, servable: Servable, outputs: Mapping[str, NDArray[Any]], took_s: float) -> Any:
        """Return its answer, given its outputs."""


class Replica:
    """One replica: what it has open, and how many requests wait for it or run on it.

    ``entry`` is another one after it hung: its lane's thread cannot be ended.
    """

    def __init__(self, name: str, entry: Entry, lane: Lane, doubt: Callable[[], object]) -> None:
        self.name, self.entry, self.lane = name, entry, lane
        self.doubt = doubt
        """Called after an inference that failed."""
        self.outstanding = self.answered = self.moved = 0
        """``moved``: the requests that went to another one."""
        self.held: set[LaneEntry] = set()
        """The outstanding requests."""

    @property
    def is_ready(self) -> bool:
        """Whether requests may wait for it."""
        return self.entry.is_ready

    def joint(self, kind: str, rows: int) -> Joint | None:
        """Return what a request may run in, together with others."""
        return self.entry.batching.joint if kind == "infer" and rows == 1 else None


class _Sent:
    """A request's work, and the replica that it waits for or runs on."""

    def __init__(self, work: Work, replica: Replica, on_done: Callable[[LaneEntry], object] | None) -> None:
        self.work, self.replica, self.on_done = work, replica, on_done
        self.rows, self.was_lost, self.was_given_up = 1, False, False

    def __call__(self) -> Any:
        """Run it alone.

        Raises:
            HttpError: 503: the replica was lost before.
        """
        replica = self.replica
        try:
            return replica.entry.run(self.work.on)
        except InferenceError:
            replica.doubt()
            raise

    def feeds(self, servable: Servable) -> Mapping[str, NDArray[Any]]:
        return self.work.feeds(servable)

    def done(self, servable: Servable, outputs: Mapping[str, NDArray[Any]], took_s: float) -> Any:
        return self.work.done(servable, outputs, took_s)


class Dispatcher:
    """A ``RequestLane`` over the lanes of replicas; its methods may be called from any thread.

    Nothing runs in its caller's thread, however quick: another replica could not run meanwhile.

    Args:
        replicas: All of them, in the order that they were named.
        not_ready: Returns the error of a request that none can answer.
    """

    def __init__(self, replicas: Sequence[Replica], not_ready: Callable[[], HttpError]) -> None:
        self._replicas, self._not_ready = replicas, not_ready
        self._lock = threading.Lock()
        self._last = -1
        self._own = Counts()
        self._left = 0

    # -- what can be asked

    @property
    def _lanes(self) -> Iterable[Lane]:
        return [replica.lane for replica in self._replicas]

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return sum(lane.depth for lane in self._lanes)

    @property
    def left(self) -> int:
        """A number that grows whenever a request ends, begins or is given up, or a replica comes or goes."""
        return self._left + sum(lane.left for lane in self._lanes)

    @property
    def is_busy(self) -> bool:
        """Whether all of them run something."""
        return all(lane.is_busy for lane in self._lanes)

    @property
    def is_stuck(self) -> bool:
        """Whether every replica that is open hangs, so that none could take over."""
        lanes = [replica.lane for replica in self._replicas if replica.entry.servable is not None]
        return bool(lanes) and all(lane.is_stuck for lane in lanes)

    @property
    def counts(self) -> Counts:
        """What all of them refused or gave up; a request that one refused and another took is not refused."""
        rows = [self._own, *(lane.counts for lane in self._lanes)]
        totals = {each.name: sum(getattr(row, each.name) for row in rows) for each in fields(Counts)}
        return Counts(**{**totals, "shed": self._own.shed})

    def pace(self, kind: str) -> Pace:
        """Return the pace of the fastest replica that was measured."""
        paces = [lane.pace(kind) for lane in self._lanes]
        return min((pace for pace in paces if pace.runs), key=lambda pace: pace.typical_s, default=paces[0])

    def is_quick(self, kind: str) -> bool:
        """Return False: every request goes to the thread of a replica."""
        del kind
        return False

    def run_inline(self, work: Callable[[], T], kind: str) -> T | None:
        """Return None: see ``is_quick``."""
        del work, kind
        return None

    def run_waiting(self, budget_s: float) -> bool:
        """Return False: see ``is_quick``."""
        del budget_s
        return False

    # -- requests

    def submit(
        self,
        works: Sequence[Callable[[], Any]],
        *,
        kind: str,
        rows: int = 1,
        joint: Joint | None = None,
        on_done: Callable[[LaneEntry], object] | None = None,
        **terms: Any,
    ) -> LaneEntry:
        """Queue a request at the replica with the fewest outstanding ones; ``joint`` is that replica's.

        Where that one could not answer in time, or too much waits for it, the others are asked.

        Raises:
            BusyError: All refuse; it has the shortest wait of theirs.
            HttpError: 503: none is ready.
        """
        del joint
        (work,) = works
        refusals: dict[Replica, BusyError] = {}
        while (replica := self._choose(kind, refusals)) is not None:
            sent = _Sent(cast("Work", work), replica, on_done)
            sent.rows = rows
            try:
                entry = replica.lane.submit(
                    [sent],
                    kind=kind,
                    rows=rows,
                    joint=replica.joint(kind, rows),
                    on_done=self._ended,
                    rescue=self._rescue,
                    **terms,
                )
            except BusyError as error:
                with self._lock:
                    replica.outstanding -= 1
                refusals[replica] = error
                continue
            self._hold(entry, sent)
            return entry
        if not refusals:
            raise self._not_ready()
        self._own.shed += 1
        raise min(refusals.values(), key=lambda error: error.wait_s)

    def refused_again(self) -> None:
        """Count a request that is refused as the one before it was, without asking."""
        self._own.shed += 1

    def cancel(self, entry: LaneEntry) -> None:
        """Give up an entry: one that waits never begins, the results of a running one are dropped."""
        _sent(entry).replica.lane.cancel(entry)

    def expire(self, entry: LaneEntry) -> None:
        """Give up an entry whose timeout has passed."""
        _sent(entry).replica.lane.expire(entry)

    def close(self) -> None:
        """End the lanes."""
        for lane in self._lanes:
            lane.close()

    def _choose(self, kind: str, besides: Collection[Replica]) -> Replica | None:
        """Count one more request for the replica that is to run it; None where no other is ready."""
        with self._lock:
            ready = [each for each in self._replicas if each not in besides and each.is_ready]
            if not ready:
                return None
            loads = [(each.outstanding, each.lane.pace(kind).typical_s) for each in ready]
            after = sum(1 for each in ready if self._replicas.index(each) <= self._last) - 1
            chosen = ready[least(loads, after)]
            self._last = self._replicas.index(chosen)
            chosen.outstanding += 1
            return chosen

    def _hold(self, entry: LaneEntry, sent: _Sent) -> None:
        with self._lock:
            if not entry.done.is_set():  # else ``_ended`` was called, or soon is
                sent.replica.held.add(entry)

    def _ended(self, entry: LaneEntry) -> None:
        sent = _sent(entry)
        with self._lock:
            self._let_go(sent.replica, entry)
            sent.replica.answered += entry.error is None
        if sent.on_done is not None:
            sent.on_done(entry)

    def _let_go(self, replica: Replica, entry: LaneEntry) -> None:
        replica.outstanding -= 1
        replica.held.discard(entry)

    # -- replicas that are lost

    def leave(self, replica: Replica) -> None:
        """Give another replica what waits for one that is not ready, if there is another."""
        with self._lock:
            self._left += 1
            others = [each for each in self._replicas if each is not replica and each.is_ready]
        for entry in replica.lane.take_back() if others else ():
            if not self._move(entry):
                replica.lane.adopt(entry)  # where it waits for what takes over, or is answered 503

    def give_up(self, replica: Replica, entry: Entry, lane: Lane, error: HttpError) -> None:
        """Give a replica that hangs another lane: others have what waits, what runs ends with an error.

        What runs may be why it hangs, so no other replica gets it.
        """
        with self._lock:
            old, replica.entry, replica.lane = replica.lane, entry, lane
            self._left += old.left + 1
            for each in fields(Counts):
                setattr(self._own, each.name, getattr(self._own, each.name) + self._kept(old, each.name))
            held = list(replica.held)
        for waiting in old.take_back(is_last=True):
            if not self._move(waiting):
                old.fail(waiting, self._not_ready())
        for running in held:
            if running.began_s and (sent := _sent(running)).replica is replica:
                sent.was_given_up = True
                old.fail(running, error)

    @staticmethod
    def _kept(lane: Lane, name: str) -> int:
        return 0 if name == "shed" else int(getattr(lane.counts, name))

    def _rescue(self, entry: LaneEntry, error: BaseException) -> bool:
        """Have another replica run what one was lost before, and once more what it was lost in."""
        sent = _sent(entry)
        if entry.done.is_set() or sent.was_given_up:
            return False
        if isinstance(error, AcceleratorLostError) and not sent.was_lost:
            sent.was_lost = True
            return self._move(entry)
        return isinstance(error, HttpError) and error.status == _OUT and self._move(entry)

    def _move(self, entry: LaneEntry) -> bool:
        """Have another replica run a request, if one is ready."""
        sent = _sent(entry)
        old, tried = sent.replica, {sent.replica}
        while (replica := self._choose(entry.kind, tried)) is not None:
            self._hand(entry, sent, replica)
            entry.joint = replica.joint(entry.kind, sent.rows)
            try:
                replica.lane.adopt(entry)
            except BusyError:  # it was given up meanwhile
                tried.add(replica)
                with self._lock:
                    old.outstanding += 1
                self._hand(entry, sent, old)
            else:
                old.moved += 1
                return True
        return False

    def _hand(self, entry: LaneEntry, sent: _Sent, replica: Replica) -> None:
        """Make a request another replica's, which has counted it."""
        with self._lock:
            self._let_go(sent.replica, entry)
            sent.replica = replica
            replica.held.add(entry)


def _sent(entry: LaneEntry) -> _Sent:
    (sent,) = entry.works
    assert isinstance(sent, _Sent)
    return sent
