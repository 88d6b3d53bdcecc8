"""Camera lists as people write them: TOML with ``[[camera]]`` tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from edgekit.core.cameras import Camera
from edgekit.core.errors import UsageError

_OWN = ("name", "kind", "uri")
_HINT = "see docs/cameras.md"


def read_cameras(text: str, what: str) -> list[Camera]:
    """Return the cameras of a TOML text; whether they can be used is not checked.

    Raises:
        UsageError: It is not TOML, or has something other than ``[[camera]]`` tables with a name.
    """
    try:
        document = msgspec.toml.decode(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, ValueError) as cause:
        raise UsageError(f"{what}: is not TOML: {cause}", hint=_HINT) from cause
    tables = document.get("camera", [])
    if set(document) - {"camera"} or not isinstance(tables, list):
        raise UsageError(f"{what}: want [[camera]] tables alone", hint=_HINT)
    cameras = []
    for table in tables:
        own = {key: table.get(key, "") for key in _OWN} if isinstance(table, dict) else {"name": None}
        if not all(isinstance(value, str) for value in own.values()):
            raise UsageError(f"{what}: want texts as name, kind and uri of each [[camera]]", hint=_HINT)
        cameras.append(Camera(**own, options={k: v for k, v in table.items() if k not in _OWN}))
    return cameras


def write_cameras(cameras: Sequence[Camera]) -> str:
    """Return the TOML of cameras, without their passwords.

    >>> print(
    ...     write_cameras(
    ...         [Camera(name="door", kind="rtsp", uri="rtsp://10.0.0.5/2", options={"user": "ann"})]
    ...     )
    ... )
    [[camera]]
    name = "door"
    kind = "rtsp"
    uri = "rtsp://10.0.0.5/2"
    user = "ann"
    """
    return "\n\n".join(map(_table, cameras))


def _table(camera: Camera) -> str:
    values = {**{key: getattr(camera, key) for key in _OWN}, **camera.options}
    # JSON's texts and numbers are TOML's, but for one character
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "\n".join(["[[camera]]", *lines]).replace("\x7f", "\\u007f")
