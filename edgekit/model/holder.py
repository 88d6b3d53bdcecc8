"""Keeps one model open, for ``run``, the agent and ``serve``: fails over, and returns to a lost variant.

When its wait is over, a lost variant is tried in a child process, opened beside the running one, and checked
on its golden samples; the holder's user switches between two frames or requests. What else ``[fallback]`` of
a pipeline asks for is done here too: the next variant is kept open, and the running one is checked again.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import operator
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.errors import AcceleratorLostError, EdgekitError, GoldenError, NoVariantError
from edgekit.core.select import Rejection, Selection, require
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import choose
from edgekit.model.exclusions import Exclusions
from edgekit.model.fingerprint import fingerprint_of, is_as_checked, keep_checked
from edgekit.model.golden import GoldenSample, read_golden, require_golden, run_sample
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.fallback import FallbackTable
from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long ``close`` waits for a variant that is being tried."""
FINGERPRINT_S = 60.0
"""How often the fingerprint is read, which takes 50 ms."""
DOUBT_S = 10.0
NEVER_IDLE = 4
"""Where frames always wait, the running variant is checked again after so many times ``recheck_s``."""


class Holder:
    """One open model. ``ready`` is the variant that runs, ``exclusions`` those that were lost.

    ``fail_over`` and ``recheck`` belong to the thread that runs the model, the rest to any. ``rechecks``
    counts the checks that were ``done``, and those of them that were ``forced`` because frames always waited.

    Args:
        source: Bundle folder, ``.ekb`` file, bare model file, or an opened bundle.
        choices: How each variant is opened.
        exclusions: What was lost before; the holder adds to it.
        on_still_lost: Called with a variant that was tried again in vain, and the reason.
        fallback: Whether the next variant is kept open, and when the running one is checked again.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """

    def __init__(
        self,
        source: Bundle | Path | str,
        choices: Choices | None = None,
        exclusions: Exclusions | None = None,
        on_still_lost: Callable[[str, str], object] = lambda _variant, _reason: None,
        fallback: FallbackTable | None = None,
    ) -> None:
        self.bundle = source if isinstance(source, Bundle) else open_bundle(source)
        self.failovers = self.returns = self.failed_returns = 0
        self.rechecks = {"done": 0, "forced": 0}
        self._fallback = fallback or FallbackTable(recheck_s=0.0)
        self.exclusions = exclusions or Exclusions(self._fallback.retry_s)
        self._choices, self._on_still_lost = choices or Choices(), on_still_lost
        self._changed = threading.Condition()
        self._switching = threading.Lock()
        self._switch: Callable[[ReadyModel, ReadyModel], object] | None = None
        self._thread: threading.Thread | None = None
        self._standby: ReadyModel | None = None
        self._standby_due_s = 0.0
        self._samples: list[GoldenSample] = []
        self._is_noted = self._is_forced = False
        self._look_s = self._checked_s = self._forced_s = 0.0
        self._ranking: list[str] = []
        first = self._open()
        lost = self.exclusions.reasons()
        ranked = self._choose({}) if lost else first.selection
        self._ranking = [candidate.variant.id for candidate in ranked.candidates]
        with self._changed:
            self._runs(first)

    def fail_over(self, lost: Predictor, error: EdgekitError) -> Predictor:
        """Exclude a variant that was lost, free it, and return the predictor that runs from now on.

        ``lost`` is any predictor on the variant's backend.

        Raises:
            NoVariantError: No other variant runs here; ``reasons`` says why, for each.
            EdgekitError: As ``open_ready`` does.
        """
        reason = _reason(error)
        logger.warning("variant %s %s", lost.variant.id, reason)
        with self._changed:
            self.exclusions.add(lost.variant.id, reason, time.monotonic())
            new, self._standby = self._standby, None
            is_checked_now = new is None
            self._standby_due_s = 0.0
            self._watch()
        lost.close()
        try:
            if new is None and self._is_run_by(lost):
                new = self._open()
        except EdgekitError:
            if self._is_run_by(lost):
                raise
        with self._changed:
            self.failovers += 1
            if new is not None and self._is_run_by(lost):
                self._runs(new, is_checked_now=is_checked_now)
            elif new is not None:  # a better one returned meanwhile
                new.close()
            return self.ready.predictor

    def _is_run_by(self, predictor: Predictor) -> bool:
        return self.ready.backend is predictor.backend

    def recheck(self, predictor: Predictor, waiting: int) -> bool:
        """Run one golden sample again, if it is time and no frame waits; call it between two frames.

        It takes one inference. A model whose file keeps state is not checked while it runs.

        Returns:
            Whether to call it again at once: more samples are due, and no frame waits.

        Raises:
            EdgekitError: The predictor failed it, or gave a wrong answer; it belongs to ``fail_over`` now.
        """
        samples = self._samples
        if not samples or not self._is_run_by(predictor):
            return False
        if waiting:
            if time.monotonic() < self._forced_s:
                return False
            self._is_forced = True
        outcome = run_sample(samples.pop(), predictor.run_between, predictor.variant.precision)
        require_golden(self.bundle.manifest, [outcome])
        if not samples:
            with self._changed:
                self.rechecks["done"] += 1
                self.rechecks["forced"] += self._is_forced
                self._checked(time.monotonic())
        return bool(samples) and not waiting

    def doubt(self) -> None:
        """Have ``recheck`` run the golden samples soon, however much waits: an inference failed.

        Not again within 10 s of the last check: requests may be why inferences fail.
        """
        with self._changed:
            if not self._samples and time.monotonic() - self._checked_s > DOUBT_S:
                self._checked_s, self._look_s = float("-inf"), 0.0
                self._changed.notify_all()

    def watch(self, switch: Callable[[ReadyModel, ReadyModel], object]) -> None:
        """Return to a lost variant when it works again, and do what ``fallback`` asks for.

        Args:
            switch: Puts the second model in place of the first, and comes back once the first is not in
                use; called in a thread of the holder. The first may be lost, and closed, already.
        """
        with self._changed:
            self._switch = switch
            self._watch()

    def change_to(self, step: int, switch: Callable[[ReadyModel, ReadyModel], object]) -> None:
        """Run a faster variant than the chosen one, or that again.

        Args:
            step: 0 for the variant that is chosen here; else the how-many-th of those with a lower measured
                or stated cost, the slowest of them first.
            switch: As for ``watch``, called in this thread.

        Raises:
            NoVariantError: There is no such variant.
            EdgekitError: It cannot be opened.
        """
        with self._changed:
            exclude = {**self._choices.exclude, **self.exclusions.reasons()}
        chosen, choices = self._choose(exclude), self._choices
        every, _, _ = choose(self.bundle, threads=choices.threads, exclude=exclude, pairs=choices.pairs)
        costs = {row.variant.id: row.p50_ms for row in every.candidates if row.p50_ms is not None}
        first = require(chosen, self.bundle.manifest, os.uname().nodename).id
        faster = [name for name in costs if costs[name] < costs.get(first, 0.0)]
        faster.sort(key=costs.__getitem__, reverse=True)
        if step > len(faster):
            raise NoVariantError(
                f"{len(faster)} variants are known to be faster here than {first!r}",
                hint="'edgekit bench' measures them",
            )
        left, on_try = len(every.candidates) - 1, self._choices.on_try
        tried = dataclasses.replace(
            self._choices,
            variant=[first, *faster][step],
            prove=step > 0,  # the chosen one has run
            on_try=lambda name, _: on_try(name, left),
        )
        new = open_ready(self.bundle, tried)
        new.selection = msgspec.structs.replace(every, why="keeps the pipeline's budget")
        with self._switching:
            with self._changed:
                old, standby, self._standby = self.ready, self._standby, None  # it may be the same variant
                self._standby_due_s = 0.0
                self._runs(new)
            switch(old, new)
            old.close()
            if standby is not None:
                standby.close()

    @property
    def predictor(self) -> Predictor:
        """What runs now."""
        return self.ready.predictor

    def retune(self, score_threshold: float) -> None:
        """Decode with another threshold from the next frame on, whichever variant runs."""
        with self._changed:
            self._choices = dataclasses.replace(self._choices, score_threshold=score_threshold)
            for ready in (self.ready, self._standby):
                if ready is not None:
                    ready.predictor.retune(self._choices.post(ready.manifest))

    def rest(self, timeout_s: float | None = None) -> None:
        """Open and try no variant until the next ``watch``; wait for the one that is being tried."""
        with self._changed:
            self._switch, thread = None, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.rest(CLOSE_S)
        self.ready.close()
        if self._standby is not None:
            self._standby.close()

    def _open(self) -> ReadyModel:
        with self._changed:
            exclude = {**self._choices.exclude, **self.exclusions.reasons()}
        ready = open_ready(self.bundle, dataclasses.replace(self._choices, exclude=exclude))
        logger.info("variant %s is open", ready.variant.id, extra={"why": ready.why})
        return ready

    def _runs(self, ready: ReadyModel, *, is_checked_now: bool = True) -> None:
        """Make an open variant the running one."""
        reasons = self.exclusions.reasons()
        rejected = tuple(
            Rejection(row.variant, (reasons[row.variant],)) if row.variant in reasons else row
            for row in ready.selection.rejected
        )
        ready.selection = msgspec.structs.replace(ready.selection, rejected=rejected)
        self.ready = ready
        if ready.variant.id not in self._ranking:  # it did not fit before
            self._ranking.append(ready.variant.id)
        ready.fallback = self._ranking.index(ready.variant.id), len(self._ranking)
        self._checked(time.monotonic() if is_checked_now else float("-inf"))

    def _checked(self, at_s: float) -> None:
        """Note when the running variant was checked; the holder's thread keeps its fingerprint."""
        self._checked_s, self._look_s, self._samples = at_s, 0.0, []
        self._is_noted = self._is_forced = False
        self._watch()

    # -- what the holder's thread does, which lives while there is something to do

    def _watch(self) -> None:
        self._changed.notify_all()
        if self._thread is None and self._switch is not None and any(self._tasks()):
            name = f"return-{self.bundle.manifest.model}"
            self._thread = threading.Thread(target=self._tend, name=name, daemon=True)
            self._thread.start()

    def _tend(self) -> None:
        while (task := self._next_due()) is not None:
            task()

    def _tasks(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """Yield what is to be done, and the monotonic time when."""
        if (due := self.exclusions.first_due()) is not None:
            yield due[1], functools.partial(self._try, due[0])
        if self._fallback.standby == "warm" and self._standby is None:
            yield self._standby_due_s, self._open_standby
        is_checkable = self.bundle.manifest.golden and not getattr(self.ready.backend, "keeps_state", False)
        if self._fallback.recheck_s and is_checkable and not self._samples:
            yield self._look_s, self._look

    def _try(self, variant: str) -> None:
        try:
            new = self._reopened(variant)
        except EdgekitError as error:
            self._still_lost(variant, error.one_line())
        else:
            if new is not None:
                self._return_to(new)

    def _next_due(self) -> Callable[[], object] | None:
        """Wait until something is to be done; None if there is nothing, or ``rest`` was called."""
        with self._changed:
            while self._switch is not None and (tasks := list(self._tasks())):
                due_s, task = min(tasks, key=operator.itemgetter(0))
                if (wait_s := due_s - time.monotonic()) <= 0:
                    return task
                self._changed.wait(wait_s)
            self._thread = None
            return None

    def _look(self) -> None:
        """Read the golden samples for ``recheck`` when it is time, or when the fingerprint has changed."""
        ready, now_s, every_s = self.ready, time.monotonic(), self._fallback.recheck_s
        due_s = self._checked_s + every_s
        try:
            fingerprint = fingerprint_of(ready)
            has_changed = self._is_noted and not is_as_checked(fingerprint)
            is_due = has_changed or now_s >= due_s
            samples = [read_golden(self.bundle, golden) for golden in self.bundle.manifest.golden if is_due]
        except EdgekitError as error:
            logger.warning("variant %s cannot be checked again: %s", ready.variant.id, error)
            has_changed, samples = False, []
        else:
            if not is_due:
                keep_checked(fingerprint)
        with self._changed:
            if self.ready is ready:
                self._is_noted, self._samples = True, samples
                is_forced = has_changed or self._checked_s == float("-inf")
                self._forced_s = now_s if is_forced else now_s + (NEVER_IDLE - 1) * every_s
            next_s = now_s + min(FINGERPRINT_S, every_s)
            self._look_s = due_s if now_s < due_s < next_s else next_s

    def _open_standby(self) -> None:
        """Open the variant that is next, beside the running one."""
        with self._changed:
            running = self.ready
            exclude = {**self._choices.exclude, **self.exclusions.reasons(), running.variant.id: "it runs"}
        new: ReadyModel | None = None
        try:
            new = open_ready(self.bundle, self._beside(exclude=exclude))
        except EdgekitError as error:
            logger.warning("no variant stands by: %s", error)
        with self._changed:
            is_next = self.ready is running and self._switch is not None
            self._standby_due_s = time.monotonic() + self._fallback.retry_s[1] if is_next else 0.0
            running = self.ready
            if is_next:
                self._standby, new = new, None
        self._choices.on_try(running.variant.id, len(running.selection.candidates) - 1)
        if new is not None:
            new.close()

    def _reopened(self, variant: str) -> ReadyModel | None:
        """Open a lost variant, proved in a child process first; None if the running one is better.

        Raises:
            EdgekitError: It does not work yet.
        """
        with self._changed:
            others = {name: why for name, why in self.exclusions.reasons().items() if name != variant}
        selection = self._choose(others)
        for row in selection.rejected:
            if row.variant == variant:
                raise NoVariantError(f"variant {variant!r} cannot run now", reasons=row.reasons)
        if selection.candidates[0].variant.id != variant:
            with self._changed:
                self.exclusions.add(variant, self.exclusions.rows[variant].reason, time.monotonic())
            return None
        ready = open_ready(self.bundle, self._beside(variant=variant))
        ready.selection = selection
        return ready

    def _choose(self, lost: Mapping[str, str]) -> Selection:
        choices = self._choices
        selection, _, _ = choose(
            self.bundle,
            variant=choices.variant,
            threads=choices.threads,
            exclude={**choices.exclude, **lost},
            pairs=choices.pairs,
        )
        return selection

    def _beside(self, **changes: Any) -> Choices:
        """Return the choices for a variant that is opened while another one runs, and could go on."""
        on_try = self._choices.on_try
        return dataclasses.replace(
            self._choices, prove=True, on_try=lambda name, left: on_try(name, left + 1), **changes
        )

    def _still_lost(self, variant: str, reason: str) -> None:
        with self._changed:
            self.exclusions.add(variant, reason, time.monotonic())
            self.failed_returns += 1
        logger.warning("variant %s is still lost: %s", variant, reason)
        self._on_still_lost(variant, reason)

    def _return_to(self, new: ReadyModel) -> None:
        with self._switching:
            with self._changed:
                switch = self._switch
                if switch is not None:
                    self.exclusions.returned(new.variant.id)
                    old = self.ready
                    self._runs(new)
                    self.returns += 1
            if switch is None:  # ``rest`` was called meanwhile
                new.close()
                return
            logger.info("variant %s works again, and runs", new.variant.id)
            switch(old, new)
            self._release(old)

    def _release(self, old: ReadyModel) -> None:
        """Close a variant that no longer runs, or have it stand by."""
        unused: ReadyModel | None = old
        with self._changed:
            is_next = old.variant.id not in (self.ready.variant.id, *self.exclusions.reasons())
            if self._fallback.standby == "warm" and is_next:
                unused, self._standby = self._standby, old
            self._changed.notify_all()
        if unused is not None:
            unused.close()


def _reason(error: EdgekitError) -> str:
    if isinstance(error, AcceleratorLostError):
        return f"lost its accelerator: {error.message}"
    what = "gave wrong answers" if isinstance(error, GoldenError) else "failed a golden sample"
    return f"{what}: {'; '.join((error.message, *error.reasons))}"
