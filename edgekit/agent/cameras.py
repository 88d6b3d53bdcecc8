"""The fleet's cameras on this device: the list in force and the passwords, in files that only we can read.

Below ``cameras/`` in the state folder: ``list.json``, and ``passwords/NAME.TIME`` for each password.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.disk import LocalDisk, disk_errors
from edgekit.base.files import read_file, replace_file
from edgekit.core.cameras import Camera, CameraList, CameraState, source_table
from edgekit.core.errors import ConfigError
from edgekit.core.structure import decode_json
from edgekit.update.contract import cameras_folder

FLEET = "fleet"
"""The kind of a ``[source]`` that names one of these cameras."""
_OWNER = LocalDisk(0o600)


class _Stored(msgspec.Struct, frozen=True):
    sha256: str
    cameras: tuple[Camera, ...]


def camera_tables(state: Path) -> dict[str, dict[str, Any]]:
    """Return the ``[source]`` table of each camera of the list in force, by its name.

    Raises:
        ConfigError: The list cannot be read.
    """
    return {camera.name: table_of(camera, state) for camera in _stored(state).cameras}


def camera_state(state: Path) -> CameraState:
    """Return which list is in force, as it is reported.

    Raises:
        ConfigError: The list cannot be read.
    """
    stored = _stored(state)
    return CameraState(stored.sha256, tuple(camera.name for camera in stored.cameras))


def table_of(camera: Camera, state: Path) -> dict[str, Any]:
    """Return a camera's ``[source]`` table, with the file of its password."""
    return source_table(camera, str(_password_file(state, camera)))


def put_in_force(state: Path, fetched: CameraList, sha256: str) -> None:
    """Store a list and its passwords, the list last; then delete passwords that it does not need.

    Raises:
        StorageError: The disk failed; the list before is in force.
    """
    files = {
        _password_file(state, camera): fetched.passwords[camera.name]
        for camera in fetched.cameras
        if camera.password_unix_ms
    }
    folder = cameras_folder(state) / "passwords"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, password in files.items():
        replace_file(_OWNER, path, f"{password}\n".encode())
    stored = msgspec.json.encode(_Stored(sha256, fetched.cameras))
    replace_file(_OWNER, cameras_folder(state) / "list.json", stored)
    with disk_errors(folder):
        for path in folder.iterdir():
            if path not in files:
                path.unlink()


def source_with_camera(source: object, tables: Mapping[str, dict[str, Any]]) -> object:
    """Return a ``[source]`` with its camera's own table in its place, where the list has the camera."""
    if not isinstance(source, dict) or source.get("kind") != FLEET or set(source) - {"kind", "camera"}:
        return source
    return tables.get(str(source.get("camera")), source)


def _password_file(state: Path, camera: Camera) -> Path:
    return cameras_folder(state) / "passwords" / f"{camera.name}.{camera.password_unix_ms}"


def _stored(state: Path) -> _Stored:
    path = cameras_folder(state) / "list.json"
    if (data := read_file(path)) is None:
        return _Stored("", ())
    return decode_json(data, _Stored, str(path), ConfigError)
