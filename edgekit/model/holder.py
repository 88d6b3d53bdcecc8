"""Keeps one model open, for ``run``, the agent and ``serve``: fails over, and returns to a lost variant.

When its wait is over, a lost variant is tried in a child process, opened beside the running one, and checked
on its golden samples; the holder's user switches between two frames or requests.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.core.errors import EdgekitError, NoVariantError
from edgekit.core.select import require
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import choose
from edgekit.model.exclusions import Exclusions
from edgekit.model.ready import Choices, ReadyModel, open_ready
from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long ``close`` waits for a variant that is being tried."""


class Holder:
    """One open model. ``ready`` is the variant that runs, ``exclusions`` those that were lost.

    ``fail_over`` belongs to the thread that runs the model, the rest to any.

    Args:
        source: Bundle folder, ``.ekb`` file, bare model file, or an opened bundle.
        choices: How each variant is opened.
        exclusions: What was lost before; the holder adds to it.
        on_still_lost: Called with a variant that was tried again in vain, and the reason.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """

    def __init__(
        self,
        source: Bundle | Path | str,
        choices: Choices | None = None,
        exclusions: Exclusions | None = None,
        on_still_lost: Callable[[str, str], object] = lambda _variant, _reason: None,
    ) -> None:
        self.bundle = source if isinstance(source, Bundle) else open_bundle(source)
        self.exclusions = exclusions or Exclusions()
        self.failovers = self.returns = self.failed_returns = 0
        self._choices, self._on_still_lost = choices or Choices(), on_still_lost
        self._changed = threading.Condition()
        self._switching = threading.Lock()
        self._switch: Callable[[ReadyModel, ReadyModel], object] | None = None
        self._thread: threading.Thread | None = None
        self.ready = self._open()

    def fail_over(self, lost: Predictor, error: EdgekitError) -> Predictor:
        """Exclude a variant that was lost, free it, and return the predictor that runs from now on.

        Raises:
            NoVariantError: No other variant runs here; ``reasons`` says why, for each.
            EdgekitError: As ``open_ready`` does.
        """
        reason = f"lost its accelerator: {error.message}"
        logger.warning("variant %s %s", lost.variant.id, reason)
        with self._changed:
            self.exclusions.add(lost.variant.id, reason, time.monotonic())
            self._watch()
        lost.close()
        new: ReadyModel | None = None
        try:
            if self.ready.predictor is lost:
                new = self._open()
        except EdgekitError:
            if self.ready.predictor is lost:
                raise
        with self._changed:
            self.failovers += 1
            if new is not None and self.ready.predictor is lost:
                self.ready = new
            elif new is not None:  # a better one returned meanwhile
                new.close()
            return self.ready.predictor

    def watch(self, switch: Callable[[ReadyModel, ReadyModel], object]) -> None:
        """Return to a lost variant when it works again.

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
        pinned, threads = self._choices.variant, self._choices.threads
        chosen, _, _ = choose(self.bundle, variant=pinned, threads=threads, exclude=exclude)
        every, _, _ = choose(self.bundle, threads=threads, exclude=exclude)
        costs = {row.variant.id: row.p50_ms for row in every.candidates if row.p50_ms is not None}
        first = require(chosen, self.bundle.manifest, os.uname().nodename).id
        faster = [name for name in reversed(costs) if costs[name] < costs.get(first, 0.0)]
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
                old, self.ready = self.ready, new
            switch(old, new)
            old.close()

    def rest(self, timeout_s: float | None = None) -> None:
        """Try no lost variant until the next ``watch``; wait for the one that is being tried."""
        with self._changed:
            self._switch, thread = None, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.rest(CLOSE_S)
        self.ready.close()

    def _open(self) -> ReadyModel:
        with self._changed:
            exclude = {**self._choices.exclude, **self.exclusions.reasons()}
        ready = open_ready(self.bundle, dataclasses.replace(self._choices, exclude=exclude))
        logger.info("variant %s is open", ready.variant.id, extra={"why": ready.why})
        return ready

    # -- the return of a lost variant, in a thread that lives while there is one

    def _watch(self) -> None:
        self._changed.notify_all()
        if self._thread is None and self._switch is not None and self.exclusions.first_due() is not None:
            name = f"return-{self.bundle.manifest.model}"
            self._thread = threading.Thread(target=self._try_lost, name=name, daemon=True)
            self._thread.start()

    def _try_lost(self) -> None:
        while (variant := self._next_due()) is not None:
            self._try(variant)

    def _try(self, variant: str) -> None:
        try:
            new = self._reopened(variant)
        except EdgekitError as error:
            self._still_lost(variant, error.one_line())
        else:
            if new is not None:
                self._return_to(new)

    def _next_due(self) -> str | None:
        """Wait until a lost variant is to be tried; None if there is none, or ``rest`` was called."""
        with self._changed:
            while self._switch is not None and (due := self.exclusions.first_due()) is not None:
                variant, due_s = due
                if (wait_s := due_s - time.monotonic()) <= 0:
                    return variant
                self._changed.wait(wait_s)
            self._thread = None
            return None

    def _reopened(self, variant: str) -> ReadyModel | None:
        """Open a lost variant, proved in a child process first; None if the running one is better.

        Raises:
            EdgekitError: It does not work yet.
        """
        choices = self._choices
        with self._changed:
            others = {name: why for name, why in self.exclusions.reasons().items() if name != variant}
        exclude = {**choices.exclude, **others}
        selection, _, _ = choose(
            self.bundle, variant=choices.variant, threads=choices.threads, exclude=exclude
        )
        for row in selection.rejected:
            if row.variant == variant:
                raise NoVariantError(f"variant {variant!r} cannot run now", reasons=row.reasons)
        if selection.candidates[0].variant.id != variant:
            with self._changed:
                self.exclusions.add(variant, self.exclusions.rows[variant].reason, time.monotonic())
            return None
        left = len(selection.candidates) - 1
        tried = dataclasses.replace(
            choices, variant=variant, prove=True, on_try=lambda name, _: choices.on_try(name, left)
        )
        ready = open_ready(self.bundle, tried)
        ready.selection = selection
        return ready

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
                    old, self.ready = self.ready, new
                    self.returns += 1
            if switch is None:  # ``rest`` was called meanwhile
                new.close()
                return
            logger.info("variant %s works again, and runs", new.variant.id)
            switch(old, new)
            old.close()
