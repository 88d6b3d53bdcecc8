"""One bundle in a worker: its open model, with counters for each variant that runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from edgekit.agent.ipc import Opening, Running, StillLost
from edgekit.agent.worker.bundle_counters import BundleCounters, CountedPredictor
from edgekit.model.bundle import open_bundle
from edgekit.model.exclusions import Exclusions
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices, ReadyModel
from edgekit.pipeline.config import FallbackTable
from edgekit.pipeline.predictor import Predictor


class Hosted:
    """A bundle that is ready for frames. The supervisor gets each variant before it is opened.

    Args:
        path: The bundle.
        choices: How its variants are opened.
        exclusions: What was lost before, by bundle digest; this bundle's are added to.
        send: Sends a message to the supervisor.
        fallback: The pipeline's.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """

    def __init__(
        self,
        path: str,
        choices: Choices,
        exclusions: dict[str, Exclusions],
        send: Callable[[Any], None],
        fallback: FallbackTable,
    ) -> None:
        bundle = open_bundle(path)
        digest = bundle.digest

        def on_try(variant: str, left: int) -> None:
            send(Opening(digest=digest, variant=variant, left=left))

        def on_still_lost(variant: str, reason: str) -> None:
            send(StillLost(digest=digest, variant=variant, reason=reason[:2000]))

        self.counters: dict[str, BundleCounters] = {}
        """By variant."""
        choices = dataclasses.replace(choices, make_predictor=self._predictor, on_try=on_try)
        lost = exclusions.setdefault(digest, Exclusions(fallback.retry_s))
        self.holder = Holder(bundle, choices, lost, on_still_lost, fallback)

    @property
    def predictor(self) -> Predictor:
        """The predictor that the loop runs."""
        return self.holder.ready.predictor

    @property
    def running(self) -> Running:
        """What runs, for the supervisor."""
        return running_of(self.holder.ready)

    def _predictor(self, manifest: Any, variant: Any, *more: Any, **keywords: Any) -> Predictor:
        counters = self.counters.setdefault(variant.id, BundleCounters())
        return CountedPredictor(manifest, variant, *more, counters=counters, **keywords)


def running_of(ready: ReadyModel) -> Running:
    """Return an open model's description for the supervisor."""
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
        at=ready.fallback[0],
        of=ready.fallback[1],
    )
