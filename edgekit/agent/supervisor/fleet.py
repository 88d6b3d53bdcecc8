"""The device's side of the fleet: link, desired state, and the updater's jobs.

Nothing here blocks: without a fleet or a link, the device keeps running as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from edgekit.agent.children import Survey
from edgekit.agent.jobs import Jobs
from edgekit.agent.measuring.order import MeasureOrder
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.egress import Egress
from edgekit.agent.supervisor.renew import renew_certificate
from edgekit.base.clock import FlooredClock
from edgekit.base.disk import LocalDisk
from edgekit.base.files import replace_file
from edgekit.core.errors import ConfigError, EdgekitError, LinkError, StorageError, UsageError
from edgekit.core.structure import decode_json
from edgekit.core.wire import Addresses, Birth, Chunk, Command, Desired, Reported, Response, decode
from edgekit.sync.address import Tls, parse_url
from edgekit.sync.mqtt import Handlers, Link
from edgekit.update.contract import (
    Enrolment,
    UpdaterProgress,
    UpdaterRequest,
    UpdaterResult,
    carried_folder,
)
from edgekit.update.launch import run_updater
from edgekit.update.renewal import put_in_place

logger = logging.getLogger(__name__)

ENROLMENT_CHECK_S = 10.0
RENEWAL_CHECK_S = 60.0
RENEWAL_TIMEOUT_S = 30.0
RENEWAL_PAUSE_S = 86_400.0
ACCEPT_RETRY_S = 15.0


class Owner(Protocol):
    """What the fleet side calls on the supervisor; ``birth`` and ``reported`` on the link's thread."""

    def desired_accepted(self, desired: Desired) -> None:
        """Act on a verified desired state."""

    def commanded(self, command: Command) -> None:
        """Execute a command, which may be a repeat."""

    def birth(self) -> Birth:
        """Return the birth message."""

    def reported(self) -> Reported:
        """Return the state to report."""


def load_enrolment(state: Path) -> Enrolment | None:
    """Return this device's identity in its fleet, or None if it is not enrolled.

    Raises:
        ConfigError: The file cannot be read or is damaged.
    """
    path = state / "identity" / "enrolment.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read: {cause.strerror}") from cause
    return decode_json(data, Enrolment, str(path), ConfigError)


class FleetSide:
    """Keeps the link, has desired states verified, and fetches the bundles they name."""

    def __init__(
        self,
        state: Path,
        reactor: Reactor,
        egress: Egress,
        clock: FlooredClock,
        owner: Owner,
        timeout_s: float,
        jobs: Jobs,
    ) -> None:
        self._state, self._reactor, self._egress = state, reactor, egress
        self._clock, self._owner, self._timeout_s = clock, owner, timeout_s
        self._jobs = jobs
        self._link: Link | None = None
        self._seen = b""
        self._accepted = b""
        self._carried = b""
        """The desired state of the bundle that was carried here; the file serves while it is in force."""
        self._is_renewing = False
        self._problem = ""
        self.desired: Desired | None = None
        self.enrolment: Enrolment | None = None
        self.survey: Survey | None = None

    def start(self) -> None:
        """Load the last accepted desired state, and connect as soon as this device is enrolled."""
        self._load_accepted()
        put_in_place(self._state)  # complete a renewal that a crash interrupted
        self._connect_when_enrolled()
        self._reactor.every(RENEWAL_CHECK_S, self._renew)

    def stop(self) -> None:
        """Disconnect cleanly."""
        if self._link is not None:
            self._link.stop()

    def link_state(self) -> dict[str, Any]:
        """Return whether the link is up, why not, what the fleet refused last, and its counters."""
        if (link := self._link) is None:
            return {"connected": False, "problem": self._problem, "refusal": ""}
        state = {"connected": link.is_connected, "problem": link.problem, "refusal": link.refusal}
        return state | link.counters()

    def report(self) -> None:
        """Send the reported state soon."""
        if self._link is not None:
            self._link.report()

    def announce(self) -> None:
        """Send the birth message again soon."""
        if self._link is not None:
            self._link.announce()

    # -- connection

    def _connect_when_enrolled(self) -> None:
        try:
            self.enrolment = load_enrolment(self._state)
            self._problem = "this device is not enrolled: edgekit agent enroll --fleet URL --token T"
        except ConfigError as error:
            self._problem = error.message
            logger.error("%s", error)  # noqa: TRY400 - the message says it all
        if self.enrolment is None:
            self._reactor.after(ENROLMENT_CHECK_S, self._connect_when_enrolled)
            return
        enrolment = self.enrolment
        identity = self._state / "identity"
        tls = None
        if enrolment.broker_url.startswith("mqtts:"):
            tls = Tls(identity / "ca.crt", identity / "device.crt", identity / "device.key")
        handlers = Handlers(
            birth=self._owner.birth,
            reported=self._owner.reported,
            desired=lambda data: self._reactor.post(lambda: self._take_desired(data)),
            command=lambda command: self._reactor.post(lambda: self._owner.commanded(command)),
            connection=lambda is_up: self._reactor.post(lambda: self._linked(is_up)),
            sent=self._egress.sent,
        )
        try:
            self._link = Link(
                enrolment.broker_url,
                enrolment.device,
                self._egress.outbox,
                handlers,
                tls=tls,
                clock=self._clock,
            )
        except ConfigError as error:
            self._problem = error.message
            logger.error("no link to the fleet: %s", error)  # noqa: TRY400 - the message says it all
            return
        self._link.start()
        self._prepare_to_move()

    def _new_addresses(self) -> Addresses | None:
        """Return where the fleet is going to be, if it has said so and this device is not there yet."""
        told = self.desired.config.get("addresses") if self.desired else None
        if told is None or self.enrolment is None:
            return None
        try:
            addresses = msgspec.convert(told, Addresses)
            parse_url(addresses.broker_url)
        except (msgspec.ValidationError, ConfigError) as error:
            logger.warning("the fleet's new addresses cannot be used: %s", error)
            return None
        return addresses if addresses.broker_url != self.enrolment.broker_url else None

    def _prepare_to_move(self) -> None:
        if self._link is not None and (new := self._new_addresses()) is not None:
            self._link.also_try(new.broker_url)

    def _linked(self, is_up: bool) -> None:
        logger.info("the link is %s", "up" if is_up else "down")
        new, link = self._new_addresses(), self._link
        if not is_up or new is None or self.enrolment is None or link is None:
            return
        if link.broker_url != new.broker_url:
            return
        moved = msgspec.structs.replace(self.enrolment, **msgspec.structs.asdict(new))
        try:
            replace_file(LocalDisk(), self._state / "identity" / "enrolment.json", msgspec.json.encode(moved))
        except StorageError as error:  # the next connection tries again
            logger.warning("the fleet's new addresses cannot be stored: %s", error)
            return
        self.enrolment = moved
        logger.info("the fleet has moved to %s", new.fleet_url)

    # -- desired state

    def _load_accepted(self) -> None:
        path = self._state / "desired.json"
        try:
            data = path.read_bytes()
            self.desired = decode(data, Desired)
        except FileNotFoundError:
            return
        except (OSError, EdgekitError) as error:
            logger.warning("the last desired state is not used: %s: %s", path, error)
            return
        self._accepted = data

    def take_carried(self) -> None:
        """Act on the bundle that ``edgekit agent install`` left, with the desired state that came with it.

        Raises:
            UsageError: There is none, or this device is not enrolled.
        """
        if self.enrolment is None:
            raise UsageError("this device is not enrolled, so it trusts no publisher", hint=self._problem)
        try:
            self._carried = (carried_folder(self._state) / "desired.json").read_bytes()
        except OSError as cause:
            raise UsageError(f"no bundle was carried here: {cause.strerror}") from cause
        if self._carried == self._accepted and self.desired is not None:
            self._owner.desired_accepted(self.desired)
        self._take_desired(self._carried)

    def _take_desired(self, data: bytes) -> None:
        if data in (self._accepted, self._seen):
            return
        self._seen = data
        try:
            text = data.decode()
            decode(data, Desired)
        except (UnicodeDecodeError, EdgekitError) as error:
            self._refused(error)
            return
        request = UpdaterRequest(
            kind="accept", state_dir=str(self._state), desired=text, unix_ms=self._clock.unix_ms()
        )
        self._jobs.submit(lambda: run_updater(request), lambda outcome: self._judged(data, outcome))

    def _judged(self, data: bytes, outcome: UpdaterResult | EdgekitError) -> None:
        if data != self._seen:
            return  # a newer one has arrived
        if isinstance(outcome, UpdaterResult):
            self._accepted = data
            self.desired = decode(data, Desired)
            logger.info("desired state %d is in force", self.desired.version)
            self._prepare_to_move()
            self._owner.desired_accepted(self.desired)
            self.announce()
            return
        self._seen = b""
        if outcome.retryable:
            logger.warning("a desired state could not be checked yet: %s", outcome)
            self._reactor.after(ACCEPT_RETRY_S, lambda: self._take_desired(data))
        else:
            self._refused(outcome)

    def _refused(self, error: Exception) -> None:
        code = error.code if isinstance(error, EdgekitError) else "link.protocol"
        logger.error("a desired state was refused: %s", error)
        self._egress.alert("error", code, f"a desired state was refused: {error}")

    # -- jobs

    def fetch(self, model: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Run an updater job that fetches a model's desired bundle."""
        if not self._accepted:
            done(LinkError("no desired state is in force"))
            return
        carried = carried_folder(self._state) / "bundle.ekb" if self._carried == self._accepted else ""
        request = self._request(
            "fetch",
            model=model,
            desired=self._accepted.decode(),
            carried=str(carried),
            timeout_s=self._timeout_s,
        )
        self._jobs.submit(
            lambda: run_updater(request),
            lambda outcome: done(None if isinstance(outcome, UpdaterResult) else outcome),
        )

    def unpack(self, version: str, sha256: str, done: Callable[[EdgekitError | None], None]) -> None:
        """Run an updater job that makes the environment of a staged release of the agent."""
        request = UpdaterRequest(
            kind="unpack",
            state_dir=str(self._state),
            version=version,
            sha256=sha256,
            timeout_s=self._timeout_s,
        )
        self._jobs.submit(
            lambda: run_updater(request),
            lambda outcome: done(None if isinstance(outcome, UpdaterResult) else outcome),
        )

    def fetch_to_measure(
        self,
        order: MeasureOrder,
        area: Path,
        max_bytes: int,
        timeout_s: float,
        done: Callable[[UpdaterResult | EdgekitError], None],
    ) -> None:
        """Run an updater job that fetches a bundle below ``area``; any other updater job interrupts it."""
        request = self._request(
            "measure",
            model=order.model,
            version=order.version,
            target=order.target,
            sha256=order.sha256,
            bytes=order.bytes,
            area=str(area),
            max_bytes=max_bytes,
            timeout_s=timeout_s,
        )

        def give_way(_: UpdaterProgress) -> None:
            if self._jobs.has_more:
                raise LinkError("another updater job goes first")

        self._jobs.submit(lambda: run_updater(request, give_way), done)

    def _request(self, kind: Literal["fetch", "measure"], **fields: Any) -> UpdaterRequest:
        survey = self.survey
        return UpdaterRequest(
            kind=kind,
            state_dir=str(self._state),
            facts=survey.facts if survey else None,
            profile=survey.profile if survey else None,
            unix_ms=self._clock.unix_ms(),
            **fields,
        )

    def _renew(self) -> None:
        enrolment, link, now_ms = self.enrolment, self._link, self._clock.unix_ms()
        if enrolment is None or not 0 < enrolment.renew_after_unix_ms < now_ms:
            return
        if self._is_renewing or link is None or not link.is_connected:
            return
        self._is_renewing = True

        def ask(arguments: dict[str, Any]) -> Response | Chunk:
            return link.request("renew", arguments, RENEWAL_TIMEOUT_S)

        self._jobs.submit(lambda: renew_certificate(self._state, now_ms, run_updater, ask), self._renewed)

    def _may_renew(self) -> None:
        self._is_renewing = False

    def _renewed(self, outcome: UpdaterResult | EdgekitError) -> None:
        if isinstance(outcome, UpdaterResult):
            # Once a day at most: with a clock that is far ahead it seems due again at once.
            self._reactor.after(RENEWAL_PAUSE_S, self._may_renew)
            self.enrolment = load_enrolment(self._state)
            logger.info("the device's certificate was renewed")
            return
        self._may_renew()
        logger.error("the device's certificate cannot be renewed: %s", outcome)
        self._egress.alert("error", outcome.code, f"the certificate cannot be renewed: {outcome.message}")
