"""The worker's part of the local API: each of its models has local programs as one more user."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgekit.agent.answering import Answering, answered_by
from edgekit.agent.worker.bundle_counters import BundleCounters
from edgekit.core.errors import EdgekitError
from edgekit.model.ready import Choices
from edgekit.model.servable import servable_of
from edgekit.serve.hosting import Offers, Pipe, Row, Settings, ToHost
from edgekit.serve.models import UNAVAILABLE, Entry, Models
from edgekit.serve.ports import Limits, Offer, Servable

if TYPE_CHECKING:
    from edgekit.agent.ipc import Running
    from edgekit.agent.worker.hosted import CountedPredictor
    from edgekit.agent.worker.shared_model import SharedModel
    from edgekit.agent.worker.viewing import PipelineView
    from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)
_REASON = 2000


class LocalApi:
    """Answers in a thread of its own, at the address that the supervisor holds, for the models it is given.

    Args:
        end: The worker's end of the pipe to the supervisor.
    """

    def __init__(self, end: socket.socket) -> None:
        self._pipe = Pipe(end, ToHost)
        self._models = Models((), self._place_metrics)
        self.places: dict[str, Callable[[], dict[str, Any]]] = {}
        """Of each pipeline that runs: returns what its lines and zones have counted."""
        self._views: dict[str, PipelineView] = {}
        self._users: dict[SharedModel, ApiUser] = {}
        self._limits = Limits()
        self._has_page: Literal["", "local", "open"] = ""
        self._answering: Answering | None = None
        self._has_limits = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-api", daemon=True)
        self._thread.start()

    def add(self, model: SharedModel) -> None:
        """Serve a model that is open, until it is closed; waits for the model's lane."""
        self._has_limits.wait()
        user = ApiUser(model, self._limits, self._report)
        self._users[model] = user
        if user.join():
            self._models.add(user.entry)
            self._report()

    def remove(self, model: SharedModel) -> None:
        """Serve a model no more."""
        if (user := self._users.pop(model, None)) is not None:
            self._models.remove(user.entry)
            self._report()

    def page(self) -> Literal["", "local", "open"]:
        """Return whether there is a page, and whether other machines can reach it, once that is known."""
        self._has_limits.wait()
        return self._has_page

    def show(self, view: PipelineView) -> None:
        """Have the page show a pipeline."""
        self._views[view.name] = view
        self._report()

    def hide(self, view: PipelineView) -> None:
        """Show a pipeline no more, unless it was started again meanwhile."""
        if self._views.get(view.name) is view:
            del self._views[view.name]
            self._report()

    def _place_metrics(self) -> str:
        pipelines = {name: places() for name, places in sorted(self.places.items())}
        if not any(pipelines.values()):
            return ""
        from edgekit.pipeline.place_metrics import place_lines  # a worker without them has the memory

        return "".join(f"{line}\n" for line in place_lines(pipelines))

    def stop(self, timeout_s: float) -> None:
        """End after the requests that run."""
        if self._answering is not None:
            self._answering.stop()
            self._thread.join(timeout_s)

    def _report(self) -> None:
        if self._answering is not None:
            self._answering.report()

    def _run(self) -> None:
        select.select([self._pipe], [], [])
        received = self._pipe.receive()
        settings = received[0] if received is not None else None
        if not isinstance(settings, Settings):  # the supervisor has ended
            return
        self._limits, self._has_page = settings.limits, settings.page
        try:
            self._answering = Answering(
                self._pipe, settings, self._models, self._offers, lambda: None, self._end, self._views
            )
        except EdgekitError as error:
            logger.error("the local API cannot answer: %s", error)  # noqa: TRY400 - the message says it all
            self._has_limits.set()
            return
        self._has_limits.set()
        self._answering.run()

    def _end(self) -> None:
        assert self._answering is not None
        self._answering.stop()

    def _offers(self) -> Offers:
        models = self._models
        return Offers(tuple(map(_row, models)), tuple(self._views), tuple(map(answered_by, models)))


def _row(entry: Entry) -> Row:
    return Row(
        name=entry.offer.name,
        version=entry.offer.version,
        state=entry.state,
        reason=entry.reason[:_REASON],
        should_load=entry.should_load,
        pid=0,
        restarts=0,
        is_answering=True,
    )


class ApiUser:
    """Local programs as a user of one model; ``on_change`` is called after each change of what runs."""

    name = "local API"
    loop = None
    choices = Choices()

    def __init__(self, model: SharedModel, limits: Limits, on_change: Callable[[], object]) -> None:
        self._model, self._on_change = model, on_change
        manifest = model.ready.manifest
        offer = Offer(manifest.model, manifest.version, lambda: self)
        self.entry = Entry(offer, limits, model.lane)
        self._view: CountedPredictor | None = None
        self._counters: dict[str, BundleCounters] = {}

    def join(self) -> bool:
        """Use the model from now on; False where it can have one user only, and has one."""
        if not self._model.join(self):
            self.entry.state, self.entry.reason = UNAVAILABLE, "its file keeps state, and a pipeline uses it"
            return False
        self._model.lane.call(lambda: self.put(self._model.view(self)))
        return True

    # -- as a user of the model

    def check(self, predictor: Predictor) -> None:
        """Do nothing: requests are answered by whatever runs."""

    def counters(self, running: Running) -> BundleCounters:
        """Return counters that nobody reads: requests are no frames, and have metrics of their own."""
        return self._counters.setdefault(running.digest + running.variant, BundleCounters(running))

    def put(self, predictor: CountedPredictor) -> None:
        """Answer with another predictor from the next request on; on the lane's thread."""
        manifest = predictor.manifest
        self.entry.offer = msgspec.structs.replace(self.entry.offer, version=manifest.version)
        self._view = predictor
        self.entry.hold(self)
        self._on_change()

    def report(self) -> None:
        """Do nothing: frames are reported, and requests are in the metrics."""

    def stop(self) -> None:
        """Answer that the model is gone."""
        self.entry.state, self.entry.reason = UNAVAILABLE, "the agent closes it"

    def wait(self, timeout_s: float | None = None) -> None:
        """Do nothing: a request that waits is answered that the model is gone."""

    # -- as what the server holds

    @property
    def servable(self) -> Servable:
        """What runs now."""
        assert self._view is not None
        return servable_of(self._model.ready, self._view)

    def fail_over(self, lost: Servable, error: EdgekitError) -> Servable:
        """Have another variant take over for every user of the model, and return it.

        Raises:
            NoVariantError: No other variant runs here.
        """
        del lost
        assert self._view is not None
        self._view = self._model.fail_over(self, self._view, error)
        return self.servable

    def watch(self, switch: Callable[[Servable], object]) -> None:
        """Do nothing: the model itself looks for lost variants, and calls ``put``."""

    def status(self) -> dict[str, Any]:
        """Return the lost variants with the reasons, and how often one was tried again in vain."""
        return self._model.lost_variants()

    def close(self) -> None:
        """Leave the model to its other users."""
        self._model.leave(self)
