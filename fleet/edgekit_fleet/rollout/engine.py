"""Drives rollouts: reads the state, calls ``decide``, commits its actions, then publishes desired states.

Every action is one commit, so after a crash it was either done or not done, and ``decide`` is called
again until it returns no action. The engine may be killed between any two steps and continues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ConfigError, StorageError, UsageError
from edgekit_fleet.registry.repository import Published
from edgekit_fleet.rollout import observe
from edgekit_fleet.rollout.decide import Action, Advance, Direct, Member, Move, View, decide
from edgekit_fleet.rollout.desired import AT_ONCE, DesiredStates
from edgekit_fleet.rollout.fit import is_described, listed, unfit
from edgekit_fleet.rollout.machine import UNDONE, Event, State
from edgekit_fleet.rollout.observe import Observer
from edgekit_fleet.rollout.plan import Spec, assign, named_devices
from edgekit_fleet.rollout.records import Participant, Rollout, Rollouts, new_id, standing_row
from edgekit_fleet.rollout.standing import Outcome, Standing
from edgekit_fleet.store import rollouts as rows
from edgekit_fleet.store.audit import FLEET, Actor, Audit
from edgekit_fleet.store.database import Sql

logger = logging.getLogger(__name__)

_MAX_ROUNDS = 200
"""Calls of ``decide`` for one rollout in one tick; a rollout needs a few for each of its waves."""


class Bundles(Protocol):
    """Finds published bundles."""

    def bundle(self, model: str, version: str) -> Published | None:
        """Return one published bundle that devices may install."""


class Engine:
    """The rollouts of one fleet.

    ``tick`` does the work, in one thread; the other methods may be called from any.

    Args:
        store: Rollouts and devices.
        desired: Desired states.
        bundles: Finds published bundles.
        clock: Gives Unix time in milliseconds.
        roll_back: Commands a device to go back to its version before (device, model); used where
            that version was never published, so that no desired state can name it.
        changed: Called with each rollout that changed.
    """

    def __init__(
        self,
        store: Rollouts,
        desired: DesiredStates,
        bundles: Bundles,
        clock: Callable[[], int],
        *,
        roll_back: Callable[[str, str], None] = lambda _device, _model: None,
        changed: Callable[[Rollout], None] = lambda _rollout: None,
    ) -> None:
        self.store, self.desired = store, desired
        self._database = store.database
        self._bundles, self._clock = bundles, clock
        self._roll_back, self._changed = roll_back, changed
        self.observer = Observer(store.database)
        self._audit = Audit(store.database)

    def create(self, spec: Spec, *, is_draft: bool = False, by: Actor = FLEET) -> Rollout:
        """Begin a rollout, or prepare it as a draft; the audit log says ``by`` whom.

        Raises:
            UsageError: The version is not published, no device takes part or a named one does not
                exist, every device runs it already or none can, or another rollout of the model is not
                over.
        """
        bundle = self._published(spec.model, spec.version)
        named = (*spec.devices, *named_devices(spec.waves))
        candidates = self.store.rows.candidates(spec.model, named, only_named=bool(spec.devices))
        unknown = sorted(set(named) - {device for device, _ in candidates})
        if unknown:
            raise UsageError("some devices do not exist, or are revoked", reasons=tuple(unknown[:50]))
        if not candidates:
            raise UsageError(
                f"no device runs {spec.model}", hint="name devices to bring it to: --devices ID,ID"
            )
        self._check_use(spec, bundle, [device for device, _ in candidates])
        rollout_id = new_id()
        waves = assign(spec.waves, candidates, rollout_id)
        with self._database.transaction():
            rollout = self.store.create(spec, waves, self._clock(), rollout_id)
            if not is_draft:
                rollout = self.store.move(rollout.id, Event.START, "", self._clock())
            about = {"state": rollout.state.value, **msgspec.to_builtins(spec)}
            self._audit.record(by, "rollout.create", rollout.id, after=about)
        self._changed(rollout)
        return rollout

    def unfit(self, model: str, version: str) -> tuple[int, dict[str, str]]:
        """Say which devices cannot run a published version: (devices with known hardware, why by device).

        Raises:
            UsageError: The version is not published.
        """
        bundle = self._published(model, version)
        known = {device: birth for device, birth in self.store.births().items() if is_described(birth)}
        return len(known), unfit(bundle.manifest, known)

    def _published(self, model: str, version: str) -> Published:
        bundle = self._bundles.bundle(model, version)
        if bundle is None:
            raise UsageError(
                f"{model} {version} is not published",
                hint="publish it first: edgekit-fleet publish; what --measure published is never rolled out",
            )
        return bundle

    def _check_use(self, spec: Spec, bundle: Published, devices: Sequence[str]) -> None:
        """Refuse a rollout that would change nothing, or that no device can run."""
        known = self.store.rows.running(spec.model)
        wanted = self._desired_version(spec.model)
        if all(known.get(device) == spec.version and wanted(device) == spec.version for device in devices):
            raise UsageError(
                f"every device runs {spec.model} {spec.version} already, as its desired version",
                hint="nothing would change; devices that enrol later get it anyway",
            )
        unable = unfit(bundle.manifest, self.store.births(devices))
        if len(unable) == len(devices):
            raise UsageError(
                f"{spec.model} {spec.version} runs on none of its {len(devices)} devices",
                reasons=listed(unable),
                hint="publish a version with a variant that fits",
            )

    def _desired_version(self, model: str) -> Callable[[str], str]:
        def version(device: str) -> str:
            document = self.desired.of_device(device)
            desired = document.models.get(model) if document else None
            return desired.version if desired else ""

        return version

    def move(self, rollout: str, event: Event, reason: str = "", *, by: Actor = FLEET) -> Rollout:
        """Pause, resume or abort a rollout; the audit log says ``by`` whom.

        Raises:
            UsageError: There is no such rollout, or it cannot do that in its state.
        """
        moved = self._move(rollout, event, reason, by)
        self._changed(moved)
        return moved

    def _move(self, rollout: str, event: Event, reason: str, by: Actor) -> Rollout:
        with self._database.transaction():
            before = self.store.get(rollout)
            moved = self.store.move(rollout, event, reason, self._clock())
            self._audit.record(
                by,
                f"rollout.{event.value}",
                rollout,
                before=None if before is None else before.state.value,
                after={"state": moved.state.value, "reason": reason},
            )
        return moved

    def forget(self, device: str) -> None:
        """Have no rollout wait for a deleted device; one that enrols in its name joins as a new one."""
        with self._database.transaction() as sql:
            for rollout in rows.forget(sql, device):
                rows.log(sql, rollout, self._clock(), f"{device}: deleted")
        self.desired.forget(device)

    def tick(self) -> None:
        """Do everything that is due now."""
        while observe.take_records(self._database, self._clock()):
            pass
        stale = self.observer.begin()
        rollouts = self.store.at_work()
        self.observer.forget([rollout.id for rollout in rollouts])
        for rollout in rollouts:
            self._work(rollout, stale)
        self.desired.publish_pending()

    def _work(self, rollout: Rollout, stale: set[str]) -> None:
        has_undirected = self._take_newcomers(rollout)
        if rollout.state is State.DONE and not has_undirected:
            return
        for _ in range(_MAX_ROUNDS):
            participants = self.store.participants(rollout)
            if observe.take_reports(self._database, rollout, participants, self._clock()):
                participants = self.store.participants(rollout)
            actions = decide(self._view(rollout, participants, stale), self._clock())
            if not actions:
                return
            try:
                self._carry_out(rollout, participants, actions)
            except StorageError:
                raise
            except ConfigError as problem:  # devices could not read the desired state
                if rollout.state is not State.RUNNING:
                    logger.error("rollout %s: %s", rollout.id, problem.message)  # noqa: TRY400 - an operator's mistake, no bug
                    return
                self._move(rollout.id, Event.PAUSE, problem.message, FLEET)
            rollout, stale = self._again(rollout), set()
            self._changed(rollout)
        logger.error("rollout %s still has actions after %d rounds", rollout.id, _MAX_ROUNDS)

    def _again(self, rollout: Rollout) -> Rollout:
        current = self.store.get(rollout.id)
        assert current is not None  # rollouts are never deleted
        return current

    def _take_newcomers(self, rollout: Rollout) -> bool:
        """Add devices that enrolled since the rollout began; return whether any device is not directed yet.

        They join the last wave if it is for all devices. In a rollout that is done they get its version
        at once, unless they have a desired version of the model already.
        """
        known = self.store.rows.devices(rollout.id)
        if not rollout.spec.is_open_ended or rollout.state in UNDONE:
            return not all(known.values())
        candidates = self.store.rows.candidates(rollout.model, (), only_named=False)
        new = [device for device, _ in candidates if device not in known]
        if rollout.state is State.DONE:
            new = [device for device in new if not self._has_desired(device, rollout.model)]
        if new:
            last = len(rollout.spec.waves) - 1
            with self._database.transaction() as sql:
                rows.join(sql, rollout.id, [(device, last) for device in new])
                rows.log(sql, rollout.id, self._clock(), f"joined later: {', '.join(new[:20])}")
        return bool(new) or not all(known.values())

    def _has_desired(self, device: str, model: str) -> bool:
        document = self.desired.of_device(device)
        return document is not None and model in document.models

    def _view(self, rollout: Rollout, participants: Sequence[Participant], stale: set[str]) -> View:
        def is_awaited(revoked: Participant) -> bool:
            """A revoked device gives no result any more; what it was told is still taken back."""
            return rollout.state in UNDONE or revoked.outcome is not Outcome.WAITING

        measured = self.observer.measured(rollout, participants, stale)
        members = [
            Member(
                participant.device,
                participant.wave,
                participant.is_directed,
                participant.outcome,
                participant.standing.reason,
                participant.standing.settled_ms,
                participant.is_online,
                *measured.get(participant.device, ()),
            )
            for participant in participants
            if not participant.is_revoked or (participant.is_directed and is_awaited(participant))
        ]
        return View(rollout.spec, rollout.state, rollout.wave, rollout.wave_since_ms, members)

    # Carrying out -----------------------------------------------------------------------------------

    def _carry_out(
        self, rollout: Rollout, participants: Sequence[Participant], actions: Sequence[Action]
    ) -> None:
        """Commit actions some at a time, and publish in between: messages of devices are stored meanwhile.

        More than one are of a device each, and what a crash or a person leaves of them is decided again.
        """
        of_device = {participant.device: participant for participant in participants}
        for first in range(0, len(actions), AT_ONCE):
            if not self._apply(rollout, of_device, actions[first : first + AT_ONCE]):
                return
            self.desired.publish_pending()

    def _apply(
        self, rollout: Rollout, of_device: Mapping[str, Participant], actions: Sequence[Action]
    ) -> bool:
        """Commit these actions together; False if a person has just paused or aborted the rollout."""
        commands: list[str] = []
        with self._database.transaction() as sql:
            if not self._is_unchanged(sql, rollout):
                return False
            for action in actions:
                if isinstance(action, Move):
                    self._move(rollout.id, action.event, action.reason, FLEET)
                    logger.info("rollout %s: %s %s", rollout.id, action.event.value, action.reason)
                elif isinstance(action, Advance):
                    rows.set_wave(sql, rollout.id, action.wave, self._clock())
                    rows.log(sql, rollout.id, self._clock(), f"wave {action.wave + 1} begins")
                elif isinstance(action, Direct):
                    self._direct(sql, rollout, of_device[action.device])
                elif self._restore(sql, rollout, of_device[action.device]):
                    commands.append(action.device)
            for device in commands:  # queued in the same commit, sent until answered
                self._roll_back(device, rollout.model)
        return True

    @staticmethod
    def _is_unchanged(sql: Sql, rollout: Rollout) -> bool:
        row = rows.get(sql, rollout.id)
        return row is not None and (row.state, row.wave) == (rollout.state.value, rollout.wave)

    def _direct(self, sql: Sql, rollout: Rollout, participant: Participant) -> None:
        document = self.desired.of_device(participant.device)
        before = document.models.get(rollout.model) if document else None
        version = participant.active or (before.version if before else "")
        rows.set_directed(
            sql,
            rollout.id,
            participant.device,
            before_version=version,
            before_desired=None if before is None else msgspec.json.encode(before).decode(),
            now_ms=self._clock(),
        )
        self.desired.set_model(
            participant.device, rollout.model, self._desired_model(rollout, rollout.version, rollout.id)
        )

    def _restore(self, sql: Sql, rollout: Rollout, participant: Participant) -> bool:
        """Set a device's desired model back; return whether it needs a command to roll back too."""
        document = self.desired.of_device(participant.device)
        current = document.models.get(rollout.model) if document else None
        needs_command = False
        if current is not None and current.rollout == rollout.id:
            before = participant.before_desired
            if before is None and participant.before_version not in {"", rollout.version}:
                before = self._desired_model(rollout, participant.before_version, "")
                needs_command = before is None and participant.outcome is Outcome.COMMITTED
            self.desired.set_model(participant.device, rollout.model, before)
        if participant.outcome is Outcome.WAITING:
            reason = f"the rollout was {rollout.state.value} before it had a result"
            standing = Standing(Outcome.RESTORED, "", reason, self._clock())
            rows.set_standing(sql, rollout.id, participant.device, standing_row(standing))
        rows.set_restored(sql, rollout.id, participant.device, self._clock())
        return needs_command

    def _desired_model(self, rollout: Rollout, version: str, rollout_id: str) -> Any:
        bundle = self._bundles.bundle(rollout.model, version)
        if bundle is None:
            return None
        return wire.DesiredModel(
            version=bundle.version,
            target=bundle.target.path,
            sha256=bundle.sha256,
            bytes=bundle.bytes,
            rollout=rollout_id,
            soak_s=rollout.spec.soak_s,
            guards=wire.RolloutGuards(**msgspec.structs.asdict(rollout.spec.guards)) if rollout_id else None,
        )
