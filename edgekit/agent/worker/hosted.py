"""A ready model in a worker, with its own counters and its description for the supervisor."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from edgekit.agent.ipc import Running
from edgekit.agent.worker.bundle_counters import BundleCounters, CountedPredictor
from edgekit.agent.worker.runner import choices_of
from edgekit.model.ready import ReadyModel, open_ready
from edgekit.pipeline.config import ModelTable
from edgekit.pipeline.predictor import Predictor


@dataclass
class Hosted:
    """A model ready for frames."""

    path: str
    ready: ReadyModel
    counters: BundleCounters
    running: Running

    @property
    def predictor(self) -> Predictor:
        """The predictor that the loop runs."""
        return self.ready.predictor

    @property
    def key(self) -> tuple[str, str, str]:
        """Model, version and variant, as a result names them."""
        return self.running.model, self.running.version, self.running.variant

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.ready.close()


def host(path: str, table: ModelTable, run_threads: int, **more: Any) -> Hosted:
    """Open a bundle's best variant, with counters of its own.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """
    counters = BundleCounters()
    choices = dataclasses.replace(
        choices_of(table),
        threads=table.threads or run_threads or None,
        make_predictor=functools.partial(CountedPredictor, counters=counters),
    )
    choices = dataclasses.replace(choices, **more)
    ready = open_ready(path, choices)
    return Hosted(path, ready, counters, _running(ready))


def _running(ready: ReadyModel) -> Running:
    return Running(
        model=ready.manifest.model,
        version=ready.manifest.version,
        variant=ready.variant.id,
        backend=ready.variant.backend,
        accelerator=ready.backend.accelerator,
        precision=ready.variant.precision,
        why=ready.why[:4000],
        digest=ready.bundle.digest,
        left=len(ready.selection.candidates) - 1,
    )
