"""A ready model as a worker hosts it: with what its frames are counted in, what the supervisor hears."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from edgekit.agent.ipc import Running
from edgekit.agent.worker.bundle_counters import Meter, MeteredPredictor
from edgekit.agent.worker.runner import choices_of
from edgekit.model.ready import ReadyModel, open_ready
from edgekit.pipeline.config import ModelTable
from edgekit.pipeline.predictor import Predictor


@dataclass
class Hosted:
    """A model ready for frames."""

    path: str
    ready: ReadyModel
    meter: Meter
    running: Running

    @property
    def predictor(self) -> Predictor:
        """What a loop runs."""
        return self.ready.predictor

    @property
    def key(self) -> tuple[str, str, str]:
        """What a result says of the bundle that it is from."""
        return self.running.model, self.running.version, self.running.variant

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.ready.close()


def host(path: str, table: ModelTable, run_threads: int, **more: Any) -> Hosted:
    """Open a bundle's best variant, with a meter of its own.

    Args:
        path: Bundle folder, ``.ekb`` file, or model file.
        table: The pipeline's ``[model]``.
        run_threads: CPU threads, where the table does not say; 0: the default.
        more: Fields of ``Choices``, in place of what the table says.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """
    meter = Meter()
    choices = dataclasses.replace(
        choices_of(table),
        threads=table.threads or run_threads or None,
        make_predictor=functools.partial(MeteredPredictor, meter=meter),
    )
    choices = dataclasses.replace(choices, **more)
    ready = open_ready(path, choices)
    return Hosted(path, ready, meter, _running(ready))


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
