"""One bundle in a worker: its open model, and a predictor on it for each user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.agent.ipc import Host, Opening, Running, StillLost
from edgekit.agent.worker.bundle_counters import BundleCounters
from edgekit.core.errors import ConfigError
from edgekit.model.bundle import open_bundle
from edgekit.model.exclusions import Exclusions
from edgekit.model.holder import Holder
from edgekit.model.ready import Choices, ReadyModel
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.timed import Timed

if TYPE_CHECKING:
    from edgekit.pipeline.loop import Loop


class User(Protocol):
    """A pipeline, a later stage of one, or the local API, as the models see it."""

    name: str

    @property
    def choices(self) -> Choices:
        """Its thresholds and gallery, in place of the bundle's."""

    @property
    def loop(self) -> Loop | None:
        """What runs frames through several models, of which one version each may be in any frame."""

    def check(self, predictor: Predictor) -> None:
        """Check that it can run on a predictor.

        Raises:
            EdgekitError: It cannot, such as for want of a label that it hides.
        """

    def counters(self, running: Running) -> BundleCounters:
        """Return the counters of its frames on a variant."""

    def put(self, predictor: CountedPredictor) -> None:
        """Run another predictor once no frame of the old one is in work; on the lane's thread."""

    def report(self) -> None:
        """Send the counts since the last report."""

    def stop(self) -> None:
        """End after the current frame."""

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until it has ended."""


class CountedPredictor(Predictor):
    """One pipeline's predictor on a hosted bundle; it counts failures even after the loop has another."""

    def __init__(self, *arguments: Any, counters: BundleCounters, hosted: Hosted, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.counters, self.hosted = counters, hosted

    def answered(self, found: Sequence[Timed]) -> None:
        """Count a frame on which a later stage ran."""
        self.counters.ran(found)

    def failed(self) -> None:
        """Count a failed frame; the loop calls this once for each."""
        self.counters.failed()


class Hosted:
    """A bundle that is ready for frames. The supervisor gets each variant before it is opened.

    Args:
        path: The bundle.
        request: How the model is opened.
        exclusions: What was lost before, by bundle digest; this bundle's are added to.
        send: Sends a message to the supervisor.

    Raises:
        EdgekitError: As ``open_ready`` does.
    """

    def __init__(
        self, path: str, request: Host, exclusions: dict[str, Exclusions], send: Callable[[Any], None]
    ) -> None:
        bundle = open_bundle(Path(path))
        digest, key, fallback = bundle.digest, request.model, request.fallback

        def on_try(variant: str, left: int) -> None:
            send(Opening(model=key, digest=digest, variant=variant, left=left))

        def on_still_lost(variant: str, reason: str) -> None:
            send(StillLost(model=key, digest=digest, variant=variant, reason=reason[:2000]))

        choices = Choices(
            variant=request.variant or None,
            threads=request.threads or None,
            batch=request.batch or None,
            pairs=fallback.pairs,
            on_try=on_try,
        )
        lost = exclusions.setdefault(digest, Exclusions(fallback.retry_s))
        self.holder = Holder(bundle, choices, lost, on_still_lost, fallback)
        self._views: dict[str, CountedPredictor] = {}

    @property
    def running(self) -> Running:
        """What runs, for the supervisor."""
        return running_of(self.holder.ready)

    @property
    def keeps_state(self) -> bool:
        """Whether the running variant's file keeps state from frame to frame, so that it has one user."""
        return bool(getattr(self.holder.ready.backend, "keeps_state", False))

    def view(self, user: User) -> CountedPredictor:
        """Return a pipeline's predictor on the variant that runs, with its own state and thresholds.

        Raises:
            ConfigError: Another pipeline uses the model, and its file keeps state.
        """
        ready, view = self.holder.ready, self._views.get(user.name)
        if view is not None and view.backend is ready.backend:
            return view
        if self.keeps_state and self._views.keys() - {user.name}:
            raise ConfigError(
                f"the file of {ready.manifest.model} {ready.manifest.version}, {ready.variant.id}, keeps"
                " state from frame to frame, so two pipelines cannot share it",
                hint="give each pipeline a process of its own: [pipeline] worker",
            )
        choices = user.choices
        self._views[user.name] = view = CountedPredictor(
            *(ready.manifest, ready.variant, ready.backend, ready.labels),
            post=choices.post(ready.manifest),
            gallery=ready.gallery(choices.gallery) if choices.gallery else None,
            shares=ready.predictor,
            counters=user.counters(running_of(ready)),
            hosted=self,
        )
        return view

    def retune(self, user: User) -> None:
        """Have a pipeline's predictor decode as its ``choices`` say now."""
        if (view := self._views.get(user.name)) is not None:
            view.retune(user.choices.post(view.manifest))

    def leave(self, user: str) -> None:
        """Forget a pipeline that has ended."""
        self._views.pop(user, None)


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
