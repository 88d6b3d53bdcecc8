"""Rollouts and their devices as the engine sees them, mapped from the rows of the store."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit_fleet.rollout.machine import Event, State, step
from edgekit_fleet.rollout.plan import Spec
from edgekit_fleet.rollout.standing import Outcome, Standing
from edgekit_fleet.store import rollouts as rows
from edgekit_fleet.store.database import Database


@dataclass(frozen=True)
class Rollout:
    """One rollout; ``wave`` counts from 0, times are Unix milliseconds."""

    number: int
    id: str
    model: str
    version: str
    state: State
    wave: int
    wave_since_ms: int
    reason: str
    spec: Spec
    created_ms: int
    updated_ms: int


@dataclass(frozen=True)
class Participant:
    """One device of a rollout, and what the fleet knows of the device.

    Args:
        is_directed: Its desired state names this rollout's version, by this rollout.
        before_version: The version it ran when it was directed.
        before_desired: Its desired model then; None if there was none.
        standing: What its update machine sent in this rollout.
        active: The version it reports.
        is_rejecting: It reports that it will not try this version again.
    """

    device: str
    wave: int
    is_directed: bool
    directed_ms: int
    before_version: str
    before_desired: wire.DesiredModel | None
    standing: Standing
    restored_ms: int
    is_online: bool
    is_revoked: bool
    active: str
    is_rejecting: bool

    @property
    def outcome(self) -> Outcome:
        """What became of the device."""
        return self.standing.outcome


class Rollouts:
    """The rollouts of one database; times are handed in, as Unix milliseconds.

    ``rows`` gives what needs no mapping: candidates, the devices and the log of a rollout.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.rows = rows.Rollouts(database)

    def create(self, spec: Spec, waves: Mapping[str, int], now_ms: int, rollout_id: str) -> Rollout:
        """Add a rollout as a draft, with the wave of each device.

        Raises:
            UsageError: Another rollout of this model is not over.
        """
        with self.database.transaction() as sql:
            open_row = rows.open_of(sql, spec.model)
            if open_row is not None:
                raise UsageError(
                    f"{spec.model}: rollout {open_row.id} of {open_row.version} is {open_row.state}",
                    hint=f"wait for it, or end it: edgekit-fleet rollout abort {open_row.id}",
                )
            text = msgspec.json.encode(spec).decode()
            rows.add(sql, rollout_id, spec.model, spec.version, text, now_ms)
            rows.join(sql, rollout_id, waves.items())
            rows.log(sql, rollout_id, now_ms, f"created for {len(waves)} devices in {len(spec.waves)} waves")
            row = rows.get(sql, rollout_id)
        assert row is not None
        return _rollout(row)

    def move(self, rollout: str, event: Event, reason: str, now_ms: int) -> Rollout:
        """Change a rollout's state by an event, and log it.

        Raises:
            UsageError: There is no such rollout, or the event is not possible in its state.
        """
        with self.database.transaction() as sql:
            row = rows.get(sql, rollout)
            if row is None:
                raise UsageError(f"no rollout {rollout[:80]!r}", hint="edgekit-fleet rollout list")
            state = step(State(row.state), event)
            since_ms = now_ms if state is State.RUNNING else row.wave_since_ms
            rows.set_state(sql, rollout, state.value, reason, since_ms, now_ms)
            rows.log(sql, rollout, now_ms, f"{state.value}{': ' if reason else ''}{reason}")
            changed = rows.get(sql, rollout)
        assert changed is not None
        return _rollout(changed)

    def get(self, rollout: str) -> Rollout | None:
        """Return one rollout."""
        row = self.rows.get(rollout)
        return None if row is None else _rollout(row)

    def page(
        self, *, model: str = "", state: str = "", before: int | None = None, limit: int = 50
    ) -> list[Rollout]:
        """Return rollouts, the newest first; ``before`` is the number of the last one shown."""
        return [_rollout(row) for row in self.rows.page(model=model, state=state, before=before, limit=limit)]

    def at_work(self) -> list[Rollout]:
        """Return the rollouts that may have something to do, the oldest first."""
        return [_rollout(row) for row in self.rows.at_work()]

    def births(self, devices: Sequence[str] | None = None) -> dict[str, wire.Birth | None]:
        """Return what devices, or these, last said of their hardware; None where they said nothing."""
        decoder = msgspec.json.Decoder(wire.Birth)
        texts = self.rows.births()
        named = texts if devices is None else devices
        return {device: decoder.decode(texts[device]) if device in texts else None for device in named}

    def participants(self, rollout: Rollout) -> list[Participant]:
        """Return a rollout's devices, by wave and id."""
        devices = self.rows.participants(rollout.id, rollout.model, rollout.version)
        return [_participant(row) for row in devices]


def new_id(number_of_bytes: int = 4) -> str:
    """Return a random id, so that reports about a rollout lost by a restored backup name no newer one."""
    return f"r-{secrets.token_hex(number_of_bytes)}"


def standing_of(row: rows.StandingRow) -> Standing:
    """Return a device's standing from its row."""
    return Standing(Outcome(row.outcome), row.step, row.reason, row.settled_ms)


def standing_row(standing: Standing) -> rows.StandingRow:
    """Return the row of a device's standing."""
    return rows.StandingRow(standing.outcome.value, standing.step, standing.reason, standing.settled_ms)


def _rollout(row: rows.RolloutRow) -> Rollout:
    return Rollout(
        row.number,
        row.id,
        row.model,
        row.version,
        State(row.state),
        row.wave,
        row.wave_since_ms,
        row.reason,
        msgspec.json.decode(row.spec, type=Spec),
        row.created_ms,
        row.updated_ms,
    )


def _participant(row: rows.ParticipantRow) -> Participant:
    before = row.before_desired
    return Participant(
        device=row.device,
        wave=row.wave,
        is_directed=row.is_directed,
        directed_ms=row.directed_ms,
        before_version=row.before_version,
        before_desired=None if before is None else msgspec.json.decode(before, type=wire.DesiredModel),
        standing=standing_of(row.standing),
        restored_ms=row.restored_ms,
        is_online=row.is_online,
        is_revoked=row.is_revoked,
        active=row.active,
        is_rejecting=row.is_rejecting,
    )
