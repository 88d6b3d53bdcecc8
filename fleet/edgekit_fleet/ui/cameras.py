"""The pages about cameras: every list, one list with its passwords, which go in and are never shown."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from edgekit.core.errors import UsageError
from edgekit.core.spec import DEVICE_ID, NAME
from edgekit_fleet.cameras.written import read_cameras, write_cameras
from edgekit_fleet.store.cameras import Scope, StoredList, Target
from edgekit_fleet.ui.guard import PageRoute
from edgekit_fleet.ui.site import ByOperator, Form, Operator, Pages, Site, Viewer
from edgekit_fleet.web.paging import page_of
from edgekit_fleet.web.queries import Text

PAGE = 50

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/cameras", dependencies=[Viewer])
def cameras(request: Request, site: Pages, after: Text = "") -> Response:
    """List the camera lists of devices and labels."""
    scope, _, name = after.partition("/")
    cursor = Target("device" if scope == "device" else "label", name) if after else None
    lists, following = page_of(site.parts.cameras.store.page(cursor, PAGE + 1), PAGE, _path)
    return site.page(request, "cameras.html", lists=lists, next=following, is_first=not after)


@router.get("/cameras/open", dependencies=[Operator])
def find(scope: Scope, name: Text) -> Response:
    """Go to the list that the form of the overview names."""
    return RedirectResponse(f"/cameras/{_path(_target(scope, name))}", 303)


@router.get("/cameras/{scope}/{name}", dependencies=[Operator])
def show(request: Request, site: Pages, scope: Scope, name: str) -> Response:
    """Show one list, to be changed."""
    stored = site.parts.cameras.store.get(target := _target(scope, name))
    return _form_page(request, site, target, write_cameras(stored.cameras) if stored else "", stored)


@router.post("/cameras/{scope}/{name}")
def replace(request: Request, site: Pages, by: ByOperator, scope: Scope, name: str, form: Form) -> Response:
    """Replace a list, or show the form again with the errors."""
    target, text = _target(scope, name), form.get("cameras", "")
    if scope == "device" and not site.parts.devices.exists(name):
        raise HTTPException(404, f"There is no device '{name[:64]}'")
    try:
        site.parts.cameras.set_list(target, read_cameras(text, "the list"), by=by)
    except UsageError as error:
        return _form_page(request, site, target, text, site.parts.cameras.store.get(target), error)
    return RedirectResponse(f"/cameras/{_path(target)}", 303)


@router.post("/cameras/{scope}/{name}/delete")
def delete(site: Pages, by: ByOperator, scope: Scope, name: str) -> Response:
    """Delete a list with its passwords."""
    site.parts.cameras.delete(_target(scope, name), by=by)
    return RedirectResponse("/cameras", 303)


@router.post("/cameras/{scope}/{name}/passwords/{camera}")
def password(site: Pages, by: ByOperator, scope: Scope, name: str, camera: str, form: Form) -> Response:
    """Set a camera's password; an empty one deletes it."""
    target = _target(scope, name)
    site.parts.cameras.set_password(target, camera, form.get("password") or None, by=by)
    return RedirectResponse(f"/cameras/{_path(target)}", 303)


@router.post("/devices/{device}/labels")
def labels(site: Pages, by: ByOperator, device: str, form: Form) -> Response:
    """Replace a device's labels."""
    if not site.parts.devices.exists(device):
        raise HTTPException(404, f"There is no device '{device[:64]}'")
    site.parts.cameras.set_labels(device, form.get("labels", "").replace(",", " ").split(), by=by)
    return RedirectResponse(f"/devices/{device}", 303)


def _form_page(
    request: Request,
    site: Site,
    target: Target,
    text: str,
    stored: StoredList | None,
    error: UsageError | None = None,
) -> Response:
    return site.page(
        request,
        "camera_list.html",
        status=422 if error else 200,
        target=target,
        text=text,
        cameras=stored.cameras if stored else (),
        devices=site.parts.cameras.store.concerned(target),
        is_stored=stored is not None,
        error=error,
    )


def _target(scope: Scope, name: str) -> Target:
    """Return whom a page's list is for.

    Raises:
        HTTPException: No device or label can have that name.
    """
    if not DEVICE_ID.fullmatch(name) and not NAME.fullmatch(name):
        raise HTTPException(404, f"There is no {scope} '{name[:64]}'")
    return Target(scope, name)


def _path(stored: StoredList | Target) -> str:
    target = stored.target if isinstance(stored, StoredList) else stored
    return f"{target.scope}/{target.name}"
