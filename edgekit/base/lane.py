"""The queue of one loaded model, and the thread that alone calls it.

Frames of pipelines, requests of clients, and changes of the model itself wait here and run one at a time::

    lane = Lane("model-door")
    frames = lane.stream(infer, is_live=True)  # a pipeline: of a live source the latest frame wins
    frames.put(frame)
    [answer] = lane.submit([work], kind="infer", timeout_s=0.5).result()
    lane.call(model.close)  # a swap, a failover, the end: before everything that waits
    lane.close()

Control work goes first, then the stream of higher priority, then the earlier deadline. The deadline of a
stream is the time since when a frame waits, or when it was last served, whichever is later, plus its
allowance: so equal streams of a busy lane get equal shares. All requests together count as one stream, in the
order of ``edgekit.base.requests``: so neither starves the other. Requests that wait when the lane is free
run at once where that pays (``edgekit.base.joint``); it never waits for more.
"""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from edgekit.base.entry import Bounds, Counts, Entry, Margin, Pace
from edgekit.base.interpreter import hurry
from edgekit.base.joint import Joint
from edgekit.base.requests import Requests
from edgekit.base.stream import ALLOWANCE_S, Stream
from edgekit.core.errors import BusyError, LateError

T = TypeVar("T")
CONTROL, FRAME = "control", "frame"
"""Kinds of work that the lane names itself; those of requests are their users'."""
SWITCH_INTERVAL_S = 2e-4
"""How long one thread may keep the interpreter (``sys.setswitchinterval``) in a process with a lane.
Source: measured; at the default of 5 ms a busy thread makes a 5.9 ms inference take 10.7 ms, at 0.2, 5.1.
"""
LOOK_S = 0.1
"""How often ``between`` is called while nothing waits."""
_LOOK_LATE_S = 1.0
"""After this long without ``between``, the next item goes through the lane's thread, which calls it then."""
_HANDED_S = 2.5e-4
"""Runs that typically take less stay in their caller's thread, however many wait: the lane's would wait for
the interpreter before and after each."""
_JOIN_S = 1.0
_RECENT = 256


class Lane:
    """The work of one model, in a thread called ``name`` that starts when it is first needed.

    Its methods may be called from any thread, an event loop's too: only ``call`` and ``result`` wait.

    Args:
        name: Of the thread.
        bounds: Of the requests.
        between: Called on the lane's thread after each entry, and every 0.1 s while nothing waits, with how
            much waits; again at once where it returns True. It may use the model.
        clock: Monotonic seconds.
        lock: Shared by lanes that hand requests to each other.
    """

    def __init__(
        self,
        name: str,
        bounds: Bounds | None = None,
        between: Callable[[int], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        lock: threading.Lock | None = None,
    ) -> None:
        self.name, self.counts = name, Counts()
        self.between = between
        self._bounds, self._clock = bounds or Bounds(), clock
        self._paces: dict[str, Pace] = {}
        self._margin = Margin()
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._lock = lock or threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._sleepers = 0
        """Threads that wait for it: mostly none, and then there is nobody to notify."""
        self._controls: Stream[Entry] = self._queue(math.inf)
        self._requests = Requests(self._queue(0), self._bounds, self.pace)
        self._streams: list[Stream[Any]] = [self._controls, self._requests.stream]
        """Everything that can wait: control work, requests, frames."""
        self._kind = ""
        """What runs now, in whichever thread."""
        self._runner = 0
        """The thread that runs it, or ran the last."""
        self._began_s = self._takes_s = self._worked_s = 0.0
        self._looked_s = -math.inf
        self._thread: threading.Thread | None = None
        self._is_closed = self._has_ended = False
        self._ended = 0

    # -- what can be asked

    @property
    def depth(self) -> int:
        """How much waits: frames, requests and control work."""
        return sum(stream.waiting for stream in self._streams)

    @property
    def is_busy(self) -> bool:
        """Whether something runs."""
        return bool(self._kind)

    @property
    def busy_s(self) -> float:
        """For how many seconds the same entry has been running; 0 if none runs."""
        return self._clock() - self._began_s if self._kind else 0.0

    @property
    def worked_s(self) -> float:
        """For how many seconds it has been at work since it was made."""
        with self._lock:
            return self._worked_s + self.busy_s

    @property
    def is_stuck(self) -> bool:
        """Whether it has been running for longer than ``Bounds.stuck_s``."""
        return self.busy_s > self._bounds.stuck_s

    @property
    def p95_ms(self) -> float | None:
        """The 95th percentile of the last 256 frames' and requests' milliseconds in the model, or None."""
        with self._lock:
            recent = sorted(self._recent)
        return recent[(95 * len(recent) - 1) // 100] * 1e3 if recent else None

    @property
    def left(self) -> int:
        """A number that grows whenever work ends, begins or is given up: until then no refusal is undone."""
        return self._ended + self._requests.left

    def pace(self, kind: str) -> Pace:
        """Return the measured pace of one kind of work."""
        if (pace := self._paces.get(kind)) is None:
            pace = self._paces.setdefault(kind, Pace())
        return pace

    def wait_s(self) -> float:
        """Return the estimated seconds until a new request would begin."""
        with self._lock:
            return self._wait_s(len(self._requests.stream.items))

    # -- its users

    def stream(
        self,
        run: Callable[[T], object],
        *,
        is_live: bool,
        capacity: int = 1,
        allowance_s: float = ALLOWANCE_S,
        priority: int = 0,
        has_room: Callable[[], bool] = lambda: True,
    ) -> Stream[T]:
        """Add a user whose items run one after the other.

        Args:
            run: Called with each item, on the lane's thread. An ``Exception`` of it ends the stream.
            is_live: When it is full, whether a new item replaces the oldest; else ``put`` waits.
            capacity: The most items that wait.
            allowance_s: How long an item may wait before it is late: the smaller, the larger the share.
            priority: The higher goes first, always.
            has_room: Whether the result of another item can be taken. Until then none begins, and nobody else
                waits for it. It must not use the lane, or wait. Call ``Stream.nudge`` once there is room.

        Raises:
            BusyError: The lane is closed.
        """
        with self._lock:
            self._require_open()
            stream = Stream(
                run,
                self._rouse,
                self._lock,
                self._clock,
                is_live=is_live,
                capacity=capacity,
                allowance_s=allowance_s,
                priority=priority,
                has_room=has_room,
            )
            self._streams = [*(each for each in self._streams if not each.is_spent), stream]
        return stream

    def submit(
        self,
        works: Sequence[Callable[[], Any]],
        *,
        kind: str,
        timeout_s: float = 0.0,
        priority: int = 0,
        rows: int = 1,
        size_bytes: int = 0,
        client: str = "",
        joint: Joint | None = None,
        on_done: Callable[[Entry], object] | None = None,
        age_s: float = 0.0,
        wake: bool = True,
        rescue: Callable[[Entry, BaseException], bool] | None = None,
    ) -> Entry:
        """Queue a request.

        Args:
            works: What to run, one after the other; the first error ends it.
            kind: What its pace is measured by.
            timeout_s: When its results are of no use any more; 0: never. It is given up where it is awaited:
                by ``result``, or by ``expire`` from a timer of the caller's.
            priority: The higher goes first, unless the lower has waited a second longer for each step.
            rows: How many samples it has; the bounds count them.
            size_bytes: What it keeps in memory while it waits.
            client: Whose it is: clients get equal shares.
            joint: What it may run in, with other requests that have the same; for a single work.
            on_done: Called once with the entry when it has ended, in any thread.
            age_s: How long ago it came: its timeout has run since.
            wake: Whether the lane's thread is to look at it; else the caller soon calls ``run_waiting``.
            rescue: Called with an error that it is about to end with; True where another lane has it instead.

        Raises:
            BusyError: Too much waits, or it cannot end in time, or the lane is closed.
        """
        entry = Entry(
            works,
            kind,
            self._clock() - age_s,
            timeout_s=timeout_s,
            priority=priority,
            rows=rows,
            size_bytes=size_bytes,
            client=client,
            joint=joint,
            on_done=on_done,
            rescue=rescue,
        )
        with self._lock:
            self._require_open()
            at = self._requests.place(entry)
            self._require_room(entry, at)
            self._requests.add(entry, at, wake=wake)
        return entry

    def take_back(self, *, is_last: bool = False) -> list[Entry]:
        """Return the requests that wait, which are in no lane now: for ``adopt`` of one with the same lock.

        ``is_last``: close this one, which hangs, without waiting for its thread.
        """
        with self._lock:
            self._is_closed |= is_last
            entries = [entry for entry in self._requests.stream.items if entry.kind != CONTROL]
            for entry in entries:
                self._requests.remove(entry)
        return entries

    def adopt(self, entry: Entry) -> None:
        """Queue a request that another lane accepted; it is not refused for want of room.

        Raises:
            BusyError: The lane is closed.
        """
        with self._lock:
            self._require_open()
            entry.began_s = entry.took_s = entry.expected_s = 0.0  # its wait says nothing of this lane
            self._requests.add(entry, self._requests.place(entry))

    def refused_again(self) -> None:
        """Count a request that is refused as the one before it was, without asking."""
        with self._lock:
            self.counts.shed += 1

    def control(
        self,
        work: Callable[[], Any],
        *,
        on_done: Callable[[Entry], object] | None = None,
        after_waiting: bool = False,
    ) -> Entry:
        """Queue work that changes the model and is never refused; it runs before everything that waits.

        ``after_waiting``: after the requests that wait now. Once the lane has ended, it runs at once, in this
        thread.
        """
        entry = Entry([work], CONTROL, self._clock(), on_done=on_done)
        with self._lock:
            if not self._has_ended:
                if after_waiting and not self._is_closed:
                    self._requests.add_last(entry)
                else:
                    self._controls.add(entry)
                return entry
            while self._kind:
                self._sleep()
            self._claim(CONTROL)
        self._do(entry)
        self._release(CONTROL, 0.0)
        return entry

    def call(self, work: Callable[[], T]) -> T:
        """Run work as ``control`` does (at once for what the lane runs), and wait; raises what it raises."""
        if self._kind and self._runner == threading.get_ident():
            return work()
        result: T = self.result(self.control(work))[0]
        return result

    def result(self, entry: Entry) -> list[Any]:
        """Wait for an entry, at most until its timeout has passed, and return its results.

        Raises:
            LateError: The timeout has passed.
            BaseException: What the work raised.
        """
        wait_s = None if entry.deadline_s == math.inf else max(0.0, entry.deadline_s - self._clock())
        if not entry.done.wait(wait_s):
            self.expire(entry)
        if entry.error is not None:
            raise entry.error
        return entry.results

    def is_quick(self, kind: str) -> bool:
        """Return whether ``run_inline`` runs this kind of work while nothing else runs."""
        return self.pace(kind).is_below(self._bounds.inline_s)

    def run_inline(self, work: Callable[[], T], kind: str) -> T | None:
        """Run work in this thread if it is of a quick kind and nothing else runs; else return None."""
        with self._lock:
            if not self._is_free() or not self.is_quick(kind):
                return None
            self._claim(kind)
        began_s = self._clock()
        try:
            return work()
        finally:
            self._release(kind, self._clock() - began_s)

    def run_item(self, stream: Stream[T], item: T) -> bool:
        """Run an item of one of its streams in this thread if nothing else runs or waits; else return False.

        For a user that waits for it: then no thread need be woken, twice. Where it is time for ``between``
        the item is left to the lane's thread.
        """
        with self._lock:
            is_late = self.between is not None and self._clock() - self._looked_s > _LOOK_LATE_S
            if is_late or not self._is_free() or not stream.begin():
                return False
            self._claim(FRAME)
        began_s = self._clock()
        try:
            stream.do(item)
        finally:
            self._release(FRAME, self._clock() - began_s, stream)
        return True

    def run_waiting(self, budget_s: float) -> bool:
        """Run requests of quick kinds in this thread, one after the other, for about so many seconds.

        It leaves to the lane's thread what is not quick (a batch that takes as long as several runs is not),
        everything while something else runs or goes first, and what would take longer than the budget, unless
        its runs are too short for another thread: meanwhile this one can do something else.

        Returns:
            Whether it should be called again, once its caller has done something else.
        """
        until_s = self._clock() + budget_s
        requests = self._requests.stream
        while True:
            with self._lock:
                is_own = not self._kind and self._choose() is requests and self._is_next_quick()
                if not is_own or self._is_long(budget_s):
                    if self._is_closed:
                        self._wake.notify_all()
                    elif self.depth:
                        self._rouse()
                    return False
                if self._clock() >= until_s:
                    return True
                entry = requests.take()
                self._requests.taken(entry)
                self._claim(entry.kind)
            self._do(entry)
            self._release(entry.kind, entry.took_s, requests, wake=False)

    def cancel(self, entry: Entry) -> None:
        """Give up an entry: one that waits never begins, the results of a running one are dropped."""
        is_running = entry.began_s > 0
        if self._end(entry, concurrent.futures.CancelledError()):
            self.counts.cancelled_running += is_running
            self.counts.cancelled_queued += not is_running

    def expire(self, entry: Entry) -> None:
        """Give up an entry whose timeout has passed."""
        self._expire(entry, "the timeout has passed")

    def fail(self, entry: Entry, error: BaseException) -> None:
        """End an entry with an error, unless it has ended; what runs it runs on."""
        self._end(entry, error)

    def close(self) -> None:
        """End the thread after what runs and the control work; give up everything else.

        It waits at most 1 s: a thread that hangs in a runtime ends with the process.
        """
        with self._lock:
            self._is_closed = True
            given_up = list(self._requests.stream.items)
            for stream in self._streams[1:]:
                stream.end(discard=True)
            self._has_ended |= self._thread is None
            self._wake.notify_all()
        for entry in given_up:
            self._end(entry, BusyError(f"{self.name}: the model is closed"))
        if self._thread not in (None, threading.current_thread()):
            self._thread.join(_JOIN_S)

    # -- with the lock held

    def _queue(self, priority: float) -> Stream[Entry]:
        return Stream(self._do, self._rouse, self._lock, self._clock, priority=priority)

    def _require_open(self) -> None:
        if self._is_closed:
            raise BusyError(f"{self.name}: the model is closed")

    def _require_room(self, entry: Entry, at: int) -> None:
        why, wait_s, holds_s = self._requests.refusal(entry), self._wait_s(at), math.inf
        timeout_s, age_s = entry.deadline_s - entry.queued_s, self._clock() - entry.queued_s
        runs_s, margin = self._requests.run_s(entry, at), self._margin.factor
        if not why and age_s + margin * wait_s + runs_s > timeout_s:
            needs_s = age_s + wait_s + runs_s
            why = f"the answer would take {needs_s:.3f} s, the timeout is {timeout_s:.3f} s"
            holds_s = max(wait_s - (timeout_s - runs_s) / margin, (wait_s - runs_s) / 2)
        entry.expected_s = age_s + wait_s
        if why:
            self.counts.shed += 1
            raise BusyError(f"overloaded: {why}", wait_s=wait_s, holds_s=holds_s)

    def _wait_s(self, at: int) -> float:
        """Estimate: the requests ahead, each stream that has a frame once for each of them, and what runs."""
        frames = sum(1 for each in self._streams[2:] if each.priority >= 0 and each.is_ready)
        waits_s = self._requests.wait_s(at) + (at + 1) * frames * self.pace(FRAME).typical_s
        if self._kind:
            waits_s += max(0.0, self._takes_s - (self._clock() - self._began_s))
        return waits_s

    def _is_next_quick(self) -> bool:
        """Return whether what the first request will run in is quick; some request waits."""
        items = self._requests.stream.items
        runs_s = self._requests.run_s(items[0], len(items) - 1)
        return self.is_quick(items[0].kind) and runs_s < self._bounds.inline_s

    def _is_long(self, budget_s: float) -> bool:
        """Return whether the requests that wait take longer than this, in runs that another thread may do."""
        items = self._requests.stream.items
        is_short = self.pace(items[0].kind).typical_s < _HANDED_S
        return not is_short and self._requests.wait_s(len(items)) > budget_s

    def _rouse(self) -> None:
        if self._sleepers:
            self._wake.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            self._thread.start()

    def _sleep(self, timeout_s: float | None = None) -> bool:
        """Wait until notified; return whether it was."""
        self._sleepers += 1
        is_notified = self._wake.wait(timeout_s)
        self._sleepers -= 1
        return is_notified

    def _is_free(self) -> bool:
        return not (self._kind or self._is_closed or self.depth)

    def _claim(self, kind: str) -> None:
        # the thread before the kind: ``call`` looks at both without the lock
        now_s = self._clock()
        self._worked_s += now_s - self._began_s if self._kind else 0.0
        self._runner, self._kind, self._began_s = threading.get_ident(), kind, now_s
        self._takes_s = self.pace(kind).typical_s

    def _choose(self) -> Stream[Any] | None:
        ready = [stream for stream in self._streams if stream.items and stream.is_ready]
        return min(ready, key=_order) if len(ready) > 1 else ready[0] if ready else None

    def _wait_for_turn(self) -> Stream[Any] | None:
        """Return the stream whose turn it is; None when it is time for ``between``, or at the end."""
        while True:
            if not self._kind:  # no other thread runs something
                if (stream := self._choose()) is not None:
                    return stream
                if self._is_closed:
                    self._has_ended = True
                    return None
            is_notified = self._sleep(None if self.between is None else LOOK_S)
            if not is_notified and not self._kind:
                return None

    # -- what runs something: the lane's thread, or one that has the claim

    def _serve(self) -> None:
        hurry()
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Run the next item, and what comes between; False at the end. A function, to let go of the item."""
        with self._lock:
            stream = self._wait_for_turn()
            if self._has_ended:
                return False
            item = None if stream is None else stream.take()
            if stream is self._requests.stream and isinstance(item, Entry):
                self._requests.taken(item)
            kind = item.kind if isinstance(item, Entry) else CONTROL if item is None else FRAME
            self._claim(kind)
        if stream is not None:
            stream.do(item)
        took_s = item.took_s if isinstance(item, Entry) else self._clock() - self._began_s
        if self.between is not None:
            self._claim(CONTROL)
            self._looked_s = self._began_s
            while self.between(self.depth):
                pass
        self._release(kind, took_s, stream)
        return True

    def _release(
        self, kind: str, took_s: float, stream: Stream[Any] | None = None, *, wake: bool = True
    ) -> None:
        with self._lock:
            self._ended += 1
            if took_s and kind != CONTROL:
                self.pace(kind).add(took_s)
                self._recent.append(took_s)
            if stream is not None:
                stream.served()
            self._worked_s += self._clock() - self._began_s
            self._kind = ""
            if wake and self._sleepers and (self.depth or self._is_closed):
                self._wake.notify_all()

    def _do(self, entry: Entry) -> None:
        now_s = self._clock()
        if entry.done.is_set():  # cancelled
            return
        if now_s + self.pace(entry.kind).typical_s > entry.deadline_s:
            self._expire(entry, "the timeout would pass before the answer is ready")
            return
        self._margin.add(entry.expected_s, now_s - entry.queued_s)
        if entry.joint is not None and self._requests.stream.items:
            with self._lock:
                entries = self._requests.join(entry, now_s)
            if not entries:
                self._expire(entry, "the timeout would pass in a batch, and a batch's worth of others waits")
                return
            if len(entries) > 1:
                self._do_at_once(entries, now_s)
                return
        entry.began_s = now_s
        results, error = [], None
        try:
            results = [work() for work in entry.works]
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the entry is awaited
            error = raised
        entry.took_s = self._clock() - now_s
        self._end(entry, error, results)

    def _do_at_once(self, entries: Sequence[Entry], now_s: float) -> None:
        joint, rows = entries[0].joint, sum(entry.rows for entry in entries)
        assert joint is not None
        for entry in entries:
            entry.began_s = now_s
        self._takes_s = joint.fit.cost_s(rows)
        results: Sequence[Any]
        try:
            results = joint.run([entry.works[0] for entry in entries])
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the entries are awaited
            results = [raised] * len(entries)
        took_s = self._clock() - now_s
        joint.fit.add(rows, took_s)
        with self._lock:
            self._recent.extend([took_s] * len(entries))
        self.counts.batches += 1
        self.counts.batched += len(entries)
        for entry, result in zip(entries, results, strict=True):
            error = result if isinstance(result, BaseException) else None
            self._end(entry, error, () if error else [result])

    def _expire(self, entry: Entry, why: str) -> None:
        if self._end(entry, LateError(why)):
            self.counts.deadline_missed += 1

    def _end(self, entry: Entry, error: BaseException | None, results: Sequence[Any] = ()) -> bool:
        """Give an entry its results or error, unless it has some; return whether it got them."""
        if error is not None and entry.rescue is not None and entry.rescue(entry, error):
            return False
        with self._lock:
            if entry.done.is_set():
                return False
            entry.results, entry.error, entry.ended_s = list(results), error, self._clock()
            entry.done.set()
            if not entry.began_s:
                self._requests.remove(entry)
        if entry.on_done is not None:
            entry.on_done(entry)
        return True


def _order(stream: Stream[Any]) -> tuple[float, float]:
    return -stream.priority, stream.deadline_s
