"""Loads and unloads a model: every version of it, in whichever processes they are."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from urllib.parse import quote

import msgspec

from edgekit.core.errors import EdgekitError
from edgekit.serve.errors import HttpError
from edgekit.serve.hosting import Row
from edgekit.serve.models import Models
from edgekit.serve.siblings import Siblings

Headers = Iterable[tuple[bytes, bytes]]


async def change(
    action: str, model: str, models: Models, siblings: Siblings, headers: Headers, only: str | None = None
) -> None:
    """Load or unload all versions of a model, one after the other; those that are as wanted stay so.

    Source: Triton's protocol/extension_model_repository.md, with the version policy "all".

    Args:
        action: ``load`` or ``unload``.
        model: The model's name.
        models: Those of this process.
        siblings: The other processes.
        headers: Those of a request to a sibling.
        only: The version of this process that another one asks for; empty for each of this process.

    Raises:
        HttpError: 404: there is no such model.
        HttpError, EdgekitError: The first that a version ended with; the others are changed all the same.
    """
    own = [entry for entry in models if entry.offer.name == model and only in (None, "", entry.offer.version)]
    others = [row for row in siblings.table.rows if row.name == model and not models.has(model, row.version)]
    calls = [entry.load if action == "load" else entry.unload for entry in own]
    if only is None:
        calls += [functools.partial(_ask, action, row, siblings, headers) for row in others]
    if not calls:
        models.find(model, only or "")
    errors = []
    for call in calls:
        try:
            await call()
        except (EdgekitError, HttpError) as error:  # noqa: PERF203 - one version's error is not the others'
            errors.append(error)
    if errors:
        raise errors[0]


async def _ask(action: str, row: Row, siblings: Siblings, headers: Headers) -> None:
    """Have the process of a version change it."""
    target = f"/v2/repository/models/{quote(row.name, safe='')}/{action}"
    try:
        reply = await siblings.ask(row, "POST", target.encode(), headers)
    except (EOFError, OSError) as cause:
        message = f"model {row.name!r} {row.version}: its process ended; it is opened again"
        raise HttpError(503, message, ((b"retry-after", b"1"),)) from cause
    if reply.status != 200:
        raise HttpError(reply.status, msgspec.json.decode(reply.body)["error"])
