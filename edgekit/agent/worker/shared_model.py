"""One model of a worker, opened once for all pipelines and stages that use it."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgekit.agent.ipc import (
    FailedOver,
    Host,
    ModelFailed,
    ModelProgress,
    Opened,
    Returned,
    Swap,
    SwapFailed,
    Swapped,
    TrialProgress,
    Varied,
)
from edgekit.agent.worker.hosted import CountedPredictor, Hosted, User, running_of
from edgekit.base.lane import Lane
from edgekit.core.errors import BundleError, ConfigError, EdgekitError
from edgekit.model.exclusions import Exclusions

if TYPE_CHECKING:
    from edgekit.model.ready import ReadyModel
    from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)

POLL_S = 0.1
STOP_S = 5.0


class SharedModel:
    """A model by its key: the running bundle, the one kept loaded during a trial, and the users.

    A swap, a takeover, a return and a change for a budget concern every user at once: they are put in place
    on the thread of ``lane``, where every user's frames wait. ``open`` is called in a thread of its own.

    Args:
        request: What to open.
        send: Sends a message to the supervisor.
        switching: Held while a version is put in place, by all models of a worker: of two that a pipeline
            has, each could rely on the other one to find what is to be hidden.
    """

    def __init__(
        self, request: Host, send: Callable[[Any], None], switching: threading.Lock | None = None
    ) -> None:
        self.key = request.model
        self.error: EdgekitError | None = None
        """Why it cannot run; its users end without a message of their own."""
        self.lane = Lane(f"model-{request.model}", between=self._between)
        self._request, self._send = request, send
        self._exclusions = {
            digest: Exclusions(request.fallback.retry_s, rows) for digest, rows in request.exclude.items()
        }
        self._active: Hosted | None = None
        self._kept: Hosted | None = None
        self._users: dict[str, User] = {}
        self._has_opened = threading.Event()
        self.making = threading.RLock()
        """Held while a user's loop is made, so that no predictor is put in place of another's meanwhile."""
        self._varying = threading.Lock()  # so that no variant of another version is put in its place
        self._switching = switching or threading.Lock()
        self._is_swapping = False
        self._steps: dict[str, int] = {}
        self._reported_s = 0.0
        """How long the lane had been at work at the last message."""
        self._is_closed = False

    def open(self) -> None:
        """Open the bundle; ``Opened`` or ``ModelFailed`` tells the supervisor."""
        try:
            active = self._host(self._request.path)
        except EdgekitError as error:
            self._fail(error)
            return
        with self.making:
            self._active = active
            is_closed = self._is_closed
        if is_closed:
            active.holder.close()
            return
        self._send(Opened(model=self.key, running=active.running, load_ms=active.holder.ready.load_ms))
        active.holder.watch(functools.partial(self._return_to, active))
        self._has_opened.set()

    def wait(self, stopping: threading.Event) -> bool:
        """Wait until the model is open; return False if it cannot be, or ``stopping`` is set first."""
        while not self._has_opened.wait(POLL_S):
            if stopping.is_set():
                return False
        return self.error is None and not self._is_closed

    def close(self) -> None:
        """End its users and free the model; safe to call twice."""
        with self.making:
            self._is_closed = True
            every = (self._active, self._kept)
            users = list(self._users.values())
        self._has_opened.set()
        for user in users:
            user.stop()
        for user in users:
            user.wait(STOP_S)
        self.lane.close()
        for hosted in every:
            if hosted is not None:
                hosted.holder.close()

    def _fail(self, error: EdgekitError) -> None:
        """End every user, since no variant is left, or the first bundle cannot be opened."""
        if self.error is not None:
            return
        self.error = error
        logger.error("model %s cannot run: %s", self.key, error)
        text = "\n".join((error.message, *error.reasons))[:4000]
        is_final = type(error) is ConfigError or isinstance(error, BundleError)
        self._send(ModelFailed(model=self.key, code=error.code, reason=text, is_final=is_final))
        for user in list(self._users.values()):
            user.stop()
        self._has_opened.set()

    def _host(self, path: str) -> Hosted:
        return Hosted(path, self._request, self._exclusions, self._send)

    @property
    def is_open(self) -> bool:
        """Whether it has been opened."""
        return self._has_opened.is_set() and self.error is None and not self._is_closed

    @property
    def ready(self) -> ReadyModel:
        """What is open and runs."""
        return self._require_active().holder.ready

    def lost_variants(self) -> dict[str, Any]:
        """Return the lost variants with the reasons, and how often one was tried again in vain."""
        holder = self._require_active().holder
        return {"excluded": holder.exclusions.reasons(), "failed_returns": holder.failed_returns}

    # -- its users

    def join(self, user: User) -> bool:
        """Add a user; return False if the model has one already, and its file keeps state.

        Raises:
            EdgekitError: It cannot run on the model, such as for want of a label that it redacts.
        """
        with self.making:
            if self._users and self._require_active().keeps_state:
                return False
            user.check(self.view(user))
            self._users[user.name] = user
            return True

    def leave(self, user: User) -> None:
        """Forget a user that has ended, if it is one."""
        with self.making:
            if self._users.get(user.name) is not user:
                return
            del self._users[user.name]
            for hosted in (self._active, self._kept):
                if hosted is not None:
                    hosted.leave(user.name)

    def view(self, user: User) -> CountedPredictor:
        """Return a pipeline's predictor on what runs."""
        return self._require_active().view(user)

    def retune(self, user: User) -> None:
        """Have a pipeline's predictors decode as its ``choices`` say now, of the kept bundle too."""
        with self.making:
            for hosted in (self._active, self._kept):
                if hosted is not None:
                    hosted.retune(user)

    # -- on the lane's thread

    def fail_over(self, user: User, lost: Predictor, error: EdgekitError) -> CountedPredictor:
        """Put another variant in place for every user after one met a loss; return that user's predictor.

        Raises:
            NoVariantError: No other variant runs here.
        """
        hosted = lost.hosted if isinstance(lost, CountedPredictor) else self._require_active()
        self._take_over(hosted, lost, error)
        return hosted.view(user)

    def _between(self, waiting: int) -> bool:
        """Run one golden sample again if it is time; another variant takes over from one that is wrong."""
        if (active := self._active) is None or self.error is not None:
            return False
        predictor = active.holder.ready.predictor
        try:
            return active.holder.recheck(predictor, waiting)
        except EdgekitError as wrong:
            with contextlib.suppress(EdgekitError):  # the supervisor and every user know by ModelFailed
                self._take_over(active, predictor, wrong)
            return False

    def _take_over(self, hosted: Hosted, lost: Predictor, error: EdgekitError) -> None:
        began_ns = time.monotonic_ns()
        try:
            hosted.holder.fail_over(lost, error)
            self._put(hosted)
        except EdgekitError as last:
            self._fail(last)
            raise
        self._report_users()
        took_ms = (time.monotonic_ns() - began_ns) / 1e6
        reason = hosted.holder.exclusions.rows[lost.variant.id].reason
        self._send(
            FailedOver(
                model=self.key,
                lost=lost.variant.id,
                reason=reason,
                running=hosted.running,
                took_ms=took_ms,
            )
        )

    def _put(self, hosted: Hosted) -> None:
        """Have every user run what a bundle has open, at one boundary."""
        self._steps.clear()
        views = [(user, hosted.view(user)) for user in list(self._users.values())]
        for user, view in views:
            user.put(view)

    # -- swaps

    def swap(self, request: Swap) -> None:
        """Begin a swap in a thread of its own."""
        if self._is_swapping:
            self._send(self._refusal(request, "edgekit.busy", "another swap is being prepared"))
            return
        self._is_swapping = True
        threading.Thread(target=self._swap, args=(request,), name=f"swap-{request.swap}", daemon=True).start()

    def keep(self) -> None:
        """Free the bundle that was kept for a rollback."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.holder.close()
            self._watch()

    def _swap(self, request: Swap) -> None:
        try:
            answer = self._answer(request)
        finally:
            self._is_swapping = False  # before the answer, which the next order may follow at once
        self._send(answer)

    def _answer(self, request: Swap) -> Swapped | SwapFailed:
        answer: Swapped | SwapFailed
        self._require_active().holder.rest()  # a lost variant would take its place, and its memory
        try:
            with self._varying:
                answer = self._swap_to(request)
        except EdgekitError as error:
            answer = self._refusal(request, error.code, error.one_line())
        if self._kept is None:  # else a trial is judged first
            self._watch()
        return answer

    def _watch(self) -> None:
        active = self._require_active()
        if not self._is_closed:
            active.holder.watch(functools.partial(self._return_to, active))

    def _refusal(self, request: Swap, code: str, reason: str) -> SwapFailed:
        return SwapFailed(
            model=self.key, swap=request.swap, purpose=request.purpose, code=code, reason=reason[:2000]
        )

    def _swap_to(self, request: Swap) -> Swapped:
        if request.purpose == "rollback" and self._kept is not None:
            new, self._kept = self._kept, None
        else:
            self._send(TrialProgress(model=self.key, swap=request.swap, stage="loading"))
            new = self._host(request.path)
        self._send(TrialProgress(model=self.key, swap=request.swap, stage="ready"))
        gap_ms = self._switch(new, keeps_old=request.purpose == "trial")
        return Swapped(
            model=self.key,
            swap=request.swap,
            purpose=request.purpose,
            running=new.running,
            load_ms=new.holder.ready.load_ms,
            gap_ms=gap_ms,
        )

    def _switch(self, new: Hosted, *, keeps_old: bool) -> float:
        """Put a bundle in place for every user, if it fits each; return the gap in ms.

        Raises:
            EdgekitError: A user cannot run on it, it cannot be shared, or the model was closed meanwhile.
        """
        with self._switching, self.making:
            old = self._require_active()
            if self._is_closed:
                new.holder.close()
                raise EdgekitError("the model was closed before the new bundle was in place")
            try:
                for user in self._users.values():
                    user.check(new.view(user))
            except EdgekitError:
                new.holder.close()
                raise
            began_ns = time.monotonic_ns()
            with self._between_frames():
                self.lane.call(functools.partial(self._put, new))
            gap_ms = (time.monotonic_ns() - began_ns) / 1e6
            self._report_users()
            self._active = new
            if keeps_old:
                self._kept = old
        if not keeps_old:
            old.holder.close()
        return gap_ms

    @contextlib.contextmanager
    def _between_frames(self) -> Iterator[None]:
        """Have no frame in work meanwhile of a pipeline of several models: it has one version of each.

        This waits beside the lanes: a frame in work may wait for this model's.
        """
        loops = {id(user.loop): user.loop for user in self._users.values()}.values()
        with contextlib.ExitStack() as held:
            for loop in filter(None, loops):
                held.enter_context(loop.held())
            for loop in filter(None, loops):
                loop.wait_still()
            yield

    # -- other variants of the running bundle

    def _return_to(self, hosted: Hosted, old: ReadyModel, new: ReadyModel) -> None:
        """Run a lost variant that works again; called by the holder."""
        self._put_variant(hosted, old, new)
        self._send(Returned(model=self.key, running=running_of(new)))

    def _put_variant(self, hosted: Hosted, _: ReadyModel, __: ReadyModel) -> None:
        with self.making, self._between_frames():
            self.lane.call(functools.partial(self._put, hosted))
        self._report_users()

    def vary(self, user: str, step: int) -> None:
        """Run another variant of the active bundle for a pipeline's budget; the fastest that one needs runs.

        Raises:
            EdgekitError: It cannot be opened, or a version is on trial.
        """
        with self._varying:
            if self._kept is not None:
                raise EdgekitError("a new version is on trial")
            active, before = self._require_active(), max(self._steps.values(), default=0)
            steps = {**self._steps, user: step}
            if (fastest := max(steps.values())) == before:
                self._steps = steps
                return
            try:
                active.holder.change_to(fastest, functools.partial(self._put_variant, active))
                self._steps = {user: fastest}  # the others begin again with what runs now
            finally:
                self._send(Varied(model=self.key, running=active.running))

    # -- progress

    def report(self) -> None:
        """Send the model's figures."""
        if (active := self._active) is not None:
            worked_s, before_s = self.lane.worked_s, self._reported_s
            self._reported_s = worked_s
            self._send(
                ModelProgress(
                    model=self.key,
                    rechecks=dict(active.holder.rechecks),
                    queue=self.lane.depth,
                    busy_s=self.lane.busy_s,
                    worked_s=worked_s - before_s,
                    p95_ms=round(self.lane.p95_ms or 0.0, 3),
                )
            )

    def _report_users(self) -> None:
        for user in list(self._users.values()):
            user.report()

    def _require_active(self) -> Hosted:
        assert self._active is not None
        return self._active
