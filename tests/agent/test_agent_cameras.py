"""The fleet's cameras on a device: their files, what a pipeline becomes, what a reload changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from edgekit.agent.cameras import camera_state, put_in_force
from edgekit.agent.cameras_job import CameraTask, install_cameras
from edgekit.agent.config import parse_agent_config, with_cameras, worker_environment
from edgekit.agent.supervisor.cameras import RETRY_S, CameraKeeper
from edgekit.agent.supervisor.reload import difference
from edgekit.core.cameras import Camera, CameraList
from edgekit.core.errors import ConfigError, SourceError, UsageError
from edgekit.pipeline.config import config_problems, parse_config
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.fleet import FleetOptions
from edgekit.update.contract import fetched_cameras

SECRET = "hunter2"
DOOR = Camera(
    name="door", kind="http", uri="http://10.0.0.5/snap", options={"user": "ann"}, password_unix_ms=7
)
YARD = Camera(name="yard", kind="http", uri="http://10.0.0.6/snap")
AGENT = "\n".join(
    f'[[pipeline]]\nname = "{name}"\nmodel = "m"\nsource = {{ kind = "fleet", camera = "{name}" }}'
    for name in ("door", "yard")
)


def listed(*cameras):
    passwords = {camera.name: SECRET for camera in cameras if camera.password_unix_ms}
    return CameraList(device="box", cameras=cameras, passwords=passwords, salt="s")


def plans(folder):
    return parse_agent_config(AGENT, folder=folder, state=folder / "state", check=config_problems)


def sources(config):
    return {plan.name: parse_config(plan.text, plan.what).source for plan in config.pipelines}


def test_a_pipeline_gets_the_cameras_own_source_once_the_list_has_it(tmp_path):
    before = plans(tmp_path)
    assert {source.kind for source in sources(before).values()} == {"fleet"}
    put_in_force(tmp_path / "state", listed(DOOR), "1")
    after = with_cameras(before)
    assert after == plans(tmp_path), "the same as at the next start, without a link"
    door = sources(after)["door"]
    assert (door.kind, door.options.uri, door.options.user) == ("http", DOOR.uri, "ann")
    assert Path(door.options.password_file).read_text() == f"{SECRET}\n"
    assert SECRET not in repr(after)
    assert difference(before, after).changed == ("door",)


def test_only_the_pipelines_whose_camera_or_password_changes_are_changed(tmp_path):
    state = tmp_path / "state"
    put_in_force(state, listed(DOOR, YARD), "1")
    config = plans(tmp_path)
    for cameras, changed in (
        ((DOOR, YARD), ()),
        ((msgspec.structs.replace(DOOR, password_unix_ms=8), YARD), ("door",)),
        ((DOOR, msgspec.structs.replace(YARD, options={"fps": 2.0})), ("door", "yard")),
        ((DOOR,), ("yard",)),
    ):
        put_in_force(state, listed(*cameras), "2")
        config, before = with_cameras(config), config
        assert difference(before, config).changed == changed


def test_list_and_passwords_are_their_owners_alone_and_an_old_password_is_deleted(tmp_path):
    put_in_force(tmp_path, listed(DOOR), "1")
    put_in_force(tmp_path, listed(msgspec.structs.replace(DOOR, password_unix_ms=8), YARD), "2")
    files = [path for path in (tmp_path / "cameras").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["door.8", "list.json"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert SECRET not in (tmp_path / "cameras" / "list.json").read_text()
    assert camera_state(tmp_path).names == ("door", "yard")


@pytest.mark.parametrize(
    ("camera", "reason"),
    [
        (msgspec.structs.replace(YARD, options={"fbs": 5}), "camera yard:source.fbs"),
        (msgspec.structs.replace(YARD, uri="http://10.0.0.6:0/1"), "camera yard:source.uri"),
    ],
)
def test_a_list_that_cannot_be_used_here_says_why_and_the_one_before_stays(tmp_path, camera, reason):
    state = tmp_path / "state"
    put_in_force(state, listed(DOOR), "1")
    path = fetched_cameras(state)
    path.write_bytes(msgspec.json.encode(listed(camera, DOOR)))
    task = CameraTask(
        str(state), "box", tuple((p.template, p.what, str(p.folder)) for p in plans(tmp_path).pipelines)
    )
    with pytest.raises(ConfigError) as caught:
        install_cameras(task, worker_environment(state))
    assert any(found.startswith(reason) for found in caught.value.reasons)
    assert camera_state(state).names == ("door",)
    assert not path.exists(), "it has the passwords"


def test_a_camera_that_the_list_does_not_have_is_named(tmp_path):
    source = make_source("fleet", FleetOptions(camera="door"), SourceContext(folder=tmp_path))
    with pytest.raises(SourceError, match="the fleet's list for this device has no camera 'door'"):
        source.open()


def test_pipelines_that_could_not_be_reloaded_get_the_stored_cameras_later(tmp_path):
    state = tmp_path / "state"
    now, alerts, taken = [0.0], [], []

    class Reloader:
        is_busy = True

        def take(self, config):
            if self.is_busy:
                raise UsageError("an update of m is under way")
            taken.append(config)

    wish = SimpleNamespace(config={"cameras": {"sha256": "1"}})
    parts = SimpleNamespace(
        config=plans(tmp_path),
        reactor=SimpleNamespace(now_s=lambda: now[0]),
        fleet=SimpleNamespace(desired=wish, enrolment=SimpleNamespace(device="box")),
        egress=SimpleNamespace(alert=lambda *words: alerts.append(words)),
        changed=lambda: None,
    )
    keeper = CameraKeeper(parts, reloader := Reloader())
    put_in_force(state, listed(DOOR), "1")
    keeper._done(camera_state(state))
    assert "an update of m is under way" in keeper.state.problem
    reloader.is_busy = False
    keeper.want()
    assert keeper.state.problem, "it is not tried again at once"
    now[0] = RETRY_S[1]
    keeper.want()
    assert [sources(config)["door"].kind for config in taken] == ["http"]
    assert (keeper.state.problem, len(alerts)) == ("", 1)
    keeper.want()
    assert len(taken) == 1
