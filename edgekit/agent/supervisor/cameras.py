"""Keeps the fleet's camera list in force: fetches another one, has it checked, reloads what it changes."""

from __future__ import annotations

import logging
import random

import msgspec

from edgekit.agent.cameras import camera_state
from edgekit.agent.cameras_job import CameraTask, install_cameras
from edgekit.agent.config import with_cameras, worker_environment
from edgekit.agent.supervisor.parts import Parts
from edgekit.agent.supervisor.reload import Reloader
from edgekit.core.cameras import CameraState, CameraWish
from edgekit.core.errors import ConfigError, EdgekitError
from edgekit.update.contract import UpdaterRequest
from edgekit.update.launch import run_updater

logger = logging.getLogger(__name__)

RETRY_S = (15.0, 45.0)
"""At random between the two: ten thousand devices with one label must not come back all at once."""
TIMEOUT_S = 60.0


class CameraKeeper:
    """The camera list of one device; on the supervisor's thread only, but for ``state``.

    A list that cannot be used changes nothing, and is not tried again until the fleet has another one. One
    that cannot be fetched is tried again; without a link the list in force stays.
    """

    def __init__(self, parts: Parts, reloader: Reloader) -> None:
        self._parts, self._reloader = parts, reloader
        try:
            self._in_force = camera_state(parts.config.state)
        except ConfigError as error:  # it is fetched again
            logger.warning("the camera list is not used: %s", error)
            self._in_force = CameraState()
        self._under_way = self._refused = ""
        self._is_taken = True
        """The pipelines have the cameras of the list that is stored."""
        self._not_before_s = 0.0

    @property
    def state(self) -> CameraState:
        """What is in force, and why a newer list is not."""
        return self._in_force

    def want(self) -> None:
        """Begin to fetch the list that the desired state names, where another one is in force."""
        sha256, now_s = self._wanted(), self._parts.reactor.now_s()
        if not sha256 or self._under_way or now_s < self._not_before_s:
            return
        if sha256 == self._in_force.sha256 and self._is_taken:
            self._say("")
        elif sha256 == self._in_force.sha256:
            self._take()
        elif sha256 != self._refused:
            self._begin(sha256)

    def _wanted(self) -> str:
        fleet = self._parts.fleet
        wish = fleet.desired.config.get("cameras") if fleet.desired and fleet.enrolment else None
        try:
            return msgspec.convert(wish, CameraWish).sha256 if wish is not None else ""
        except msgspec.ValidationError as error:
            logger.warning("the fleet's word on cameras cannot be used: %s", error)
            return ""

    def _begin(self, sha256: str) -> None:
        config, enrolment = self._parts.config, self._parts.fleet.enrolment
        assert enrolment is not None
        self._under_way = sha256
        state, environment = str(config.state), worker_environment(config.state)
        request = UpdaterRequest(kind="cameras", state_dir=state, sha256=sha256, timeout_s=TIMEOUT_S)
        users = tuple(
            (plan.template, plan.what, str(plan.folder)) for plan in config.pipelines if plan.template
        )
        task = CameraTask(state, enrolment.device, users)

        def work() -> CameraState:
            run_updater(request)
            return install_cameras(task, environment)

        self._parts.jobs.submit(work, self._done)

    def _done(self, outcome: CameraState | EdgekitError) -> None:
        sha256, self._under_way = self._under_way, ""
        if isinstance(outcome, EdgekitError):
            self._failed(outcome, sha256)
            return
        self._in_force = outcome
        logger.info("camera list %s is stored: %d cameras", outcome.sha256[:12], len(outcome.names))
        self._take()

    def _take(self) -> None:
        """Give the pipelines the cameras that are stored; what fails there is tried again."""
        self._is_taken = False
        try:
            self._reloader.take(with_cameras(self._parts.config))
            self._is_taken = True
            self._say("")
        except EdgekitError as error:
            self._failed(error, "")
        self._parts.changed()

    def _failed(self, error: EdgekitError, sha256: str) -> None:
        self._not_before_s = self._parts.reactor.now_s() + random.uniform(*RETRY_S)  # noqa: S311 - no secret
        if not error.retryable:
            self._refused = sha256
        problem = "; ".join((error.message, *error.reasons))[:1000]
        if problem != self._in_force.problem:
            text = f"the fleet's camera list is not in force: {problem}"
            logger.error("%s", text)
            self._parts.egress.alert("error", error.code, text)
        self._say(problem)

    def _say(self, problem: str) -> None:
        if problem != self._in_force.problem:
            self._in_force = msgspec.structs.replace(self._in_force, problem=problem)
            self._parts.changed()
