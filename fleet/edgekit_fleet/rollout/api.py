"""Rollouts over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from edgekit_fleet.rollout.engine import Engine
from edgekit_fleet.rollout.fit import listed
from edgekit_fleet.rollout.machine import UNDONE, Event
from edgekit_fleet.rollout.plan import make_spec
from edgekit_fleet.rollout.records import Participant, Rollout
from edgekit_fleet.rollout.standing import Outcome
from edgekit_fleet.store.audit import Actor
from edgekit_fleet.web import paging
from edgekit_fleet.web.auth import ByOperator, Viewer
from edgekit_fleet.web.bodies import body_of, schema_of
from edgekit_fleet.web.queries import Row, Text

MAX_DEVICES = 1000
"""A rollout's detail shows at most this many devices; its waves count all of them."""


MAX_NEW_BYTES = 2 << 20
LONG_BODIES = ("/api/v1/rollouts",)
"""Paths whose routes read long bodies, once they know that an operator sends them."""
Name = Annotated[str, Field(max_length=200)]


class NewRollout(BaseModel):
    """A rollout to create; a field that is left out has the default of the command line."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    version: Name
    waves: Annotated[list[Annotated[str, Field(max_length=MAX_NEW_BYTES)]] | None, Field(max_length=50)] = (
        None
    )
    devices: Annotated[list[Name] | None, Field(max_length=100_000)] = None
    soak_s: int | None = None
    success_ratio: float | None = None
    max_failures: int | None = None
    wave_timeout_s: int | None = None
    guards: dict[str, float] | None = None
    draft: bool = False


class Why(BaseModel):
    """The reason for a change of state, for the rollout's log."""

    reason: Annotated[str, Field(max_length=500)] = ""


def router(engine: Engine, catch_up: Callable[[], object] = lambda: None) -> APIRouter:
    """Return the routes about rollouts; ``catch_up`` waits, within bounds, for what a new one sets going."""
    routes = APIRouter(prefix="/api/v1/rollouts", tags=["rollouts"])

    @routes.post("", status_code=201, openapi_extra=schema_of(NewRollout))
    def create(
        by: ByOperator, new: Annotated[NewRollout, Depends(body_of(NewRollout, MAX_NEW_BYTES))]
    ) -> dict[str, Any]:
        """Begin a rollout of a published version, or prepare it as a draft."""
        asked = new.model_dump(exclude_none=True)
        is_draft = asked.pop("draft")
        made = engine.create(make_spec(asked), is_draft=is_draft, by=by)
        if not is_draft:
            catch_up()
        return detail(engine, _known(engine, made.id))

    @routes.get("", dependencies=[Viewer])
    def rollouts(
        model: Text = "",
        state: Literal["", "draft", "running", "paused", "done", "halted", "aborted"] = "",
        cursor: Row = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> dict[str, Any]:
        """Return rollouts, the newest first."""
        rows = engine.store.page(model=model, state=state, before=cursor, limit=limit + 1)
        return paging.document(rows, limit, lambda rollout: rollout.number, summary)

    @routes.get("/fit", dependencies=[Viewer])
    def fit(model: Text, version: Text) -> dict[str, Any]:
        """Say how many devices cannot run a published version, of those whose hardware is known, and why."""
        devices, unable = engine.unfit(model, version)
        return {"devices": devices, "unfit": len(unable), "reasons": list(listed(unable))}

    @routes.get("/{rollout}", dependencies=[Viewer])
    def show(rollout: str) -> dict[str, Any]:
        """Return one rollout with its waves, devices and log."""
        return detail(engine, _known(engine, rollout))

    _add_moves(routes, engine)
    return routes


def _add_moves(routes: APIRouter, engine: Engine) -> None:
    """Add the routes by which people change a rollout's state."""

    def moved(event: Event, rollout: str, why: Why | None, by: Actor) -> dict[str, Any]:
        _known(engine, rollout)
        return detail(engine, engine.move(rollout, event, why.reason if why else "", by=by))

    @routes.post("/{rollout}/pause")
    def pause(by: ByOperator, rollout: str, why: Why | None = None) -> dict[str, Any]:
        """Direct no further device; the guards stay active."""
        return moved(Event.PAUSE, rollout, why, by)

    @routes.post("/{rollout}/resume")
    def resume(by: ByOperator, rollout: str, why: Why | None = None) -> dict[str, Any]:
        """Continue a paused rollout, or begin a draft; the wave's timeout starts again."""
        return moved(Event.RESUME, rollout, why, by)

    @routes.post("/{rollout}/abort")
    def abort(by: ByOperator, rollout: str, why: Why | None = None) -> dict[str, Any]:
        """End a rollout and restore every device of it to what it ran before."""
        return moved(Event.ABORT, rollout, why, by)


def summary(rollout: Rollout) -> dict[str, Any]:
    """Return what lists and the user interface show of a rollout; ``wave`` counts from 1."""
    return {
        "id": rollout.id,
        "model": rollout.model,
        "version": rollout.version,
        "state": rollout.state.value,
        "wave": rollout.wave + 1,
        "wave_count": len(rollout.spec.waves),
        "reason": rollout.reason,
        "created_unix_ms": rollout.created_ms,
        "updated_unix_ms": rollout.updated_ms,
    }


def detail(engine: Engine, rollout: Rollout) -> dict[str, Any]:
    """Return everything about a rollout."""
    participants = engine.store.participants(rollout)
    return {
        **summary(rollout),
        "waves": [_wave(rollout, number, participants) for number in range(len(rollout.spec.waves))],
        "spec": msgspec.to_builtins(rollout.spec),
        "wave_since_unix_ms": rollout.wave_since_ms,
        "devices": [_device(participant) for participant in participants[:MAX_DEVICES]],
        "device_count": len(participants),
        "log": engine.store.rows.lines(rollout.id),
    }


def _wave(rollout: Rollout, number: int, participants: list[Participant]) -> dict[str, Any]:
    of_wave = [participant for participant in participants if participant.wave == number]
    counts = {outcome: sum(participant.outcome is outcome for participant in of_wave) for outcome in Outcome}
    return {
        "wave": number + 1,
        "asked": rollout.spec.waves[number],
        "devices": len(of_wave),
        "directed": sum(participant.is_directed for participant in of_wave),
        "committed": counts[Outcome.COMMITTED],
        "failed": counts[Outcome.FAILED],
        "restored": sum(
            participant.restored_ms > 0 and not participant.is_directed for participant in of_wave
        ),
        "is_current": number == rollout.wave and rollout.state not in UNDONE,
    }


def _device(participant: Participant) -> dict[str, Any]:
    return {
        "device": participant.device,
        "wave": participant.wave + 1,
        "online": participant.is_online,
        "directed": participant.is_directed,
        "outcome": participant.outcome.value,
        "step": participant.standing.step,
        "reason": participant.standing.reason,
        "active": participant.active,
        "before": participant.before_version,
        "directed_unix_ms": participant.directed_ms or None,
        "settled_unix_ms": participant.standing.settled_ms or None,
        "restored_unix_ms": participant.restored_ms or None,
    }


def _known(engine: Engine, rollout: str) -> Rollout:
    row = engine.store.get(rollout)
    if row is None:
        raise HTTPException(404, f"There is no rollout {rollout[:80]!r}")
    return row
