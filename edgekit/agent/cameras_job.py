"""Checks a camera list that was fetched and puts it in force, in a child process: the checks need memory.

``python -m edgekit.agent.cameras_job`` is the child.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.agent.cameras import camera_state, put_in_force, table_of
from edgekit.agent.config import with_camera
from edgekit.base.child import Child, ChildFault, run_job
from edgekit.base.disk import disk_errors
from edgekit.base.files import read_file
from edgekit.core.cameras import CameraState, decode_list, digest
from edgekit.core.errors import ConfigError, LinkError
from edgekit.update.contract import fetched_cameras

TIMEOUT_S = 60.0


class CameraTask(msgspec.Struct, frozen=True):
    """The request: the pipelines that name a camera, each with its text, its name in messages, its folder."""

    state: str
    device: str
    pipelines: tuple[tuple[str, str, str], ...]


def install_cameras(task: CameraTask, environment: Mapping[str, str]) -> CameraState:
    """Return the list that is in force now; call it on a thread.

    Raises:
        ConfigError: A camera or a pipeline that uses it is not valid; the list before stays in force.
        EdgekitError: The list is not for this device, or cannot be stored.
        LinkError: The child ended without an answer.
    """
    try:
        with Child("edgekit.agent.cameras_job", environment=environment) as child:
            return child.ask(task, CameraState, TIMEOUT_S)
    except (ChildFault, OSError) as fault:
        raise LinkError(f"checking the camera list: {fault}") from fault


def _install(task: CameraTask, _: object) -> CameraState:
    state = Path(task.state)
    path = fetched_cameras(state)
    encoded = read_file(path) or b""
    try:
        fetched = decode_list(encoded, task.device)
        tables = {camera.name: table_of(camera, state) for camera in fetched.cameras}
        if problems := tuple(dict.fromkeys(_problems(tables, task))):
            raise ConfigError("the camera list cannot be used here", reasons=problems)
        put_in_force(state, fetched, digest(encoded))
    finally:
        with disk_errors(path):
            path.unlink(missing_ok=True)  # it has the passwords
    return camera_state(state)


def _problems(tables: Mapping[str, dict[str, Any]], task: CameraTask) -> Iterator[str]:
    """Yield what is wrong with the cameras, and with the pipelines as they would be with them."""
    from edgekit.pipeline.config import checked_config, config_problems

    for name, table in tables.items():
        try:
            checked_config(
                {"pipeline": {"name": "camera", "model": "any"}, "source": table}, f"camera {name}"
            )
        except ConfigError as error:  # noqa: PERF203 - every problem is reported at once
            yield from error.reasons or (error.message,)
    for text, what, folder in task.pipelines:
        yield from config_problems(with_camera(text, tables), what, Path(folder))


if __name__ == "__main__":
    sys.exit(run_job(_install, CameraTask))
