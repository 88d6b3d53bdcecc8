"""The pages about rollouts: the list, one rollout, the form for a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from edgekit.core.errors import UsageError
from edgekit_fleet.rollout import evidence
from edgekit_fleet.rollout.api import detail
from edgekit_fleet.rollout.machine import OPEN, UNDONE, Event, State
from edgekit_fleet.rollout.plan import Spec, make_spec, split_waves
from edgekit_fleet.rollout.records import Rollout
from edgekit_fleet.rollout.standing import Outcome
from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.site import ByOperator, Form, Operator, Pages, Site, Viewer
from edgekit_fleet.web.queries import PageNumber, Row, Text

PAGE = 50
DEVICES = 100
_NUMBERS = {
    "soak_s": int,
    "max_failures": int,
    "success_ratio": float,
    "wave_timeout_s": int,
}
_GUARDS = {"error_ratio": float, "p99_ratio": float, "p99_ms": float, "min_frames": int}
_MOVES = {"pause": Event.PAUSE, "resume": Event.RESUME, "abort": Event.ABORT}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Progress:
    """One rollout and its progress, in numbers of devices."""

    rollout: Rollout
    devices: int
    committed: int
    failed: int
    is_open: bool

    @property
    def state(self) -> str:
        """The rollout's state as a word."""
        return self.rollout.state.value


def progress(site: Site, rollout: Rollout) -> Progress:
    """Return the progress of one rollout."""
    tally = site.parts.engine.store.rows.tally(rollout.id)
    committed, failed = (tally.get(outcome.value, 0) for outcome in (Outcome.COMMITTED, Outcome.FAILED))
    return Progress(rollout, sum(tally.values()), committed, failed, rollout.state in OPEN)


def progress_of_open(site: Site) -> list[Progress]:
    """Return the rollouts that are not over, and the last rollout that is."""
    rows = site.parts.engine.store.page(limit=20)
    is_over = [rollout for rollout in rows if rollout.state not in OPEN]
    return [progress(site, rollout) for rollout in rows if rollout.state in OPEN or rollout in is_over[:1]]


@router.get("/rollouts", dependencies=[Viewer])
def rollouts(request: Request, site: Pages, before: Row = None) -> Response:
    """List rollouts, the newest first."""
    rows = site.parts.engine.store.page(before=before, limit=PAGE + 1)
    return site.page(
        request,
        "rollouts.html",
        rollouts=[progress(site, rollout) for rollout in rows[:PAGE]],
        next=rows[PAGE - 1].number if len(rows) > PAGE else None,
        is_first=before is None,
    )


@router.get("/rollouts/new", dependencies=[Operator])
def new(request: Request, site: Pages, model: Text = "", version: Text = "") -> Response:
    """Show the form for a new rollout."""
    chosen = f"{model}@{version}" if model else ""
    return _form_page(request, site, {"bundle": chosen})


@router.post("/rollouts/new")
def create(request: Request, site: Pages, by: ByOperator, form: Form) -> Response:
    """Begin a rollout, or show the form again with the errors."""
    try:
        rollout = site.parts.engine.create(read_form(form), is_draft=form.get("draft") == "on", by=by)
    except UsageError as error:
        return _form_page(request, site, form, error)
    return RedirectResponse(f"/rollouts/{rollout.id}", 303)


def _form_page(
    request: Request, site: Site, form: dict[str, str], error: UsageError | None = None
) -> Response:
    blank = Spec(model="", version="")
    values = {
        "waves": ",".join(blank.waves),
        **{name: f"{getattr(blank, name):g}" for name in _NUMBERS},
        **{name: f"{getattr(blank.guards, name):g}" for name in _GUARDS},
        **form,
    }
    bundles = site.parts.repository.bundles(limit=200)
    return site.page(
        request, "rollout_new.html", status=422 if error else 200, values=values, bundles=bundles, error=error
    )


def read_form(form: dict[str, str]) -> Spec:
    """Return the rollout that a form describes.

    Raises:
        UsageError: A field is not a number, or out of range; ``reasons`` names each.
    """
    model, _, version = form.get("bundle", "").partition("@")
    document: dict[str, Any] = {"model": model, "version": version}
    if form.get("waves", "").strip():
        document["waves"] = split_waves(form["waves"])
    if form.get("devices", "").strip():
        document["devices"] = tuple(form["devices"].replace(",", " ").split())
    document.update(_numbers(form, _NUMBERS))
    document["guards"] = _numbers(form, _GUARDS)
    return make_spec(document)


def _numbers(form: dict[str, str], kinds: dict[str, type]) -> dict[str, Any]:
    numbers, wrong = {}, []
    for name, kind in kinds.items():
        text = form.get(name, "").strip()
        try:
            if text:
                numbers[name] = kind(text)
        except ValueError:
            wrong.append(f"{name}: {text[:40]!r} is not a{' whole' * (kind is int)} number")
    if wrong:
        raise UsageError("the rollout is not valid", reasons=tuple(wrong))
    return numbers


@router.get("/rollouts/{rollout}", dependencies=[Viewer])
def show(request: Request, site: Pages, rollout: str, page: PageNumber = 1) -> Response:
    """Show one rollout."""
    known = _known(site, rollout)
    document = detail(site.parts.engine, known)
    members = site.parts.engine.store.participants(known)
    pages = max(-(-len(members) // DEVICES), 1)
    page = min(max(page, 1), pages)
    return site.page(
        request,
        "rollout.html",
        rollout=known,
        waves=document["waves"],
        log=list(reversed(document["log"]))[:30],
        members=members[(page - 1) * DEVICES : page * DEVICES],
        progress=progress(site, known),
        judged=site.judge.judge(known, members),
        slow_share=evidence.SLOW_SHARE,
        shown=page,
        pages=pages,
        can_pause=known.state is State.RUNNING,
        can_resume=known.state in {State.PAUSED, State.DRAFT},
        can_abort=known.state in OPEN,
        is_undone=known.state in UNDONE,
    )


@router.post("/rollouts/{rollout}/{move}")
def move(site: Pages, by: ByOperator, rollout: str, move: str, form: Form) -> Response:
    """Pause, resume or abort a rollout."""
    if move not in _MOVES:
        raise HTTPException(404, f"A rollout cannot {move[:40]!r}")
    known = _known(site, rollout)
    site.parts.engine.move(known.id, _MOVES[move], form.get("reason", "")[:500], by=by)
    return RedirectResponse(f"/rollouts/{known.id}", 303)


def _known(site: Site, rollout: str) -> Rollout:
    known = site.parts.engine.store.get(rollout)
    if known is None:
        raise HTTPException(404, f"There is no rollout {rollout[:80]!r}")
    return known
