"""A bundle that a worker has loaded: its predictor, its meter, and what the supervisor is told of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.agent.ipc import Running
from edgekit.agent.worker.bundle_counters import Meter, MeteredPredictor
from edgekit.model.assembly import OpenModel, open_model
from edgekit.model.golden import require_golden
from edgekit.pipeline.config import ModelTable
from edgekit.pipeline.predictor import with_overrides


@dataclass
class Loaded:
    """A model ready for frames."""

    path: str
    opened: OpenModel
    predictor: MeteredPredictor
    running: Running
    load_ms: float

    @property
    def meter(self) -> Meter:
        """What its frames are counted in."""
        return self.predictor.meter

    @property
    def key(self) -> tuple[str, str, str]:
        """What a result says of the bundle that it is from."""
        return self.running.model, self.running.version, self.running.variant

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.opened.close()


def load_bundle(path: str, table: ModelTable, run_threads: int, exclude: Mapping[str, str]) -> Loaded:
    """Load a bundle, prove it on its golden samples, and warm it.

    Args:
        path: Bundle folder, ``.ekb`` file, or model file.
        table: The pipeline's ``[model]``.
        run_threads: CPU threads, where the table does not say; 0: the default.
        exclude: Variants not to choose, with the reason.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here.
        GoldenError: It runs, and gives other answers than the recorded ones.
        BackendError: It cannot be run.
    """
    began_ns = time.monotonic_ns()
    threads = table.threads or run_threads or None
    opened = open_model(path, variant=table.variant or None, threads=threads, exclude=exclude)
    try:
        post = with_overrides(
            opened.manifest.post,
            score_threshold=table.score_threshold,
            iou_threshold=table.iou_threshold,
            top_k=table.top_k,
        )
        predictor = MeteredPredictor(
            opened.manifest, opened.variant, opened.backend, opened.labels, post=post
        )
        require_golden(opened.bundle, predictor, opened.variant.precision)
        predictor.warm()
    except BaseException:
        opened.close()
        raise
    load_ms = (time.monotonic_ns() - began_ns) / 1e6
    return Loaded(path, opened, predictor, _running(opened), load_ms)


def _running(opened: OpenModel) -> Running:
    why = opened.why
    if opened.fallbacks:
        why += "".join(f"\n{name}: {reason}" for name, reason in opened.fallbacks.items())
    return Running(
        model=opened.manifest.model,
        version=opened.manifest.version,
        variant=opened.variant.id,
        backend=opened.variant.backend,
        accelerator=opened.backend.accelerator,
        precision=opened.variant.precision,
        why=why[:4000],
        digest=opened.bundle.digest,
    )
