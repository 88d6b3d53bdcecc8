"""What a fleet's camera list may contain, and that no refusal repeats what may be a secret."""

import msgspec
import pytest

from edgekit.core.cameras import (
    KINDS,
    Camera,
    CameraList,
    camera_problems,
    decode_list,
    password_problem,
    source_table,
)
from edgekit.core.errors import ProtocolError

DOOR = Camera(name="door", kind="rtsp", uri="rtsp://10.0.0.5/2", options={"user": "ann", "stall_s": 3.0})
SECRET = "hunter2"


def changed(**fields):
    return msgspec.structs.replace(DOOR, **fields)


def test_a_good_list_has_no_problems():
    yard = Camera(name="yard", kind="camera", uri="/dev/v4l/by-id/usb-1", options={"width": 640})
    assert camera_problems([DOOR, changed(name="hall", password_unix_ms=5), yard]) == []


@pytest.mark.parametrize(
    ("kind", "uri"),
    [
        ("rtsp", "rtsp://10.0.0.5:554/stream%40main"),
        ("rtsp", "rtsps://door.lan/user:1/x%40y"),
        ("rtsp", "rtsp://[fe80::1]:554/a%40b"),
        ("http", "http://door.lan:80?at=me%40here"),
        ("http", "https://door.lan/snap?keyframe=1&bypass=2"),
    ],
)
def test_an_address_without_a_login_is_taken_whatever_its_path_has(kind, uri):
    assert camera_problems([changed(kind=kind, uri=uri)]) == []


@pytest.mark.parametrize(
    "uri", ["rtsp://10.0.0.5:554/stream@main", "rtsp://ann:12/34@door", "rtsp://door/x?at=me@here"]
)
def test_an_at_sign_behind_what_may_be_a_host_is_refused_as_it_may_end_a_password(uri):
    (problem,) = camera_problems([changed(uri=uri)])
    assert problem.startswith("door: uri: want no password in it")
    assert "%40" in problem


@pytest.mark.parametrize(
    "uri", ["10.0.0.5/2", "ann:hunter2", "http://door", "rtsp:door", "rtsp://door:x/", "/dev/video0"]
)
def test_what_is_no_address_is_refused_and_not_repeated(uri):
    (problem,) = camera_problems([changed(uri=uri)])
    assert problem.startswith("door: uri: want ")
    assert uri not in problem


@pytest.mark.parametrize(
    ("camera", "problem"),
    [
        (changed(name="Door"), "name: want lower-case"),
        (changed(name="../x"), "name: want lower-case"),
        (changed(kind="command"), "kind: want one of rtsp, http, camera"),
        (changed(kind="camera", password_unix_ms=1), "kind: want one that takes a password"),
        (changed(uri=""), "uri: want the camera's address"),
        (changed(uri=f"rtsp://ann:{SECRET}@10.0.0.5/2"), "uri: want no password"),
        *(
            (changed(uri=f"rtsp://{login}@10.0.0.5/2"), "uri: want no password")
            for login in (f"ann:a/{SECRET}", f"ann:a?{SECRET}", f"ann:#{SECRET}", f"ann:1{SECRET}/")
        ),
        (changed(uri=f" rtsp://ann:{SECRET}@10.0.0.5/2"), "uri: want no password"),
        (changed(uri=f"//ann:{SECRET}@10.0.0.5/2"), "uri: want no password"),
        *(
            (changed(uri=f"http://10.0.0.5/snap?user=ann&{key}={SECRET}"), "uri: want no password")
            for key in ("pwd", "psw", "usr_pwd", "loginpas", "PASSWORD", "access_token", "apikey")
        ),
        (changed(options={"main_uri": f"rtsp://:{SECRET}@10.0.0.5/1"}), "main_uri: want no password"),
        (changed(options={"password_file": "/etc/shadow"}), "password_file: want an option"),
        (changed(options={"password_env": "HOME"}), "password_env: want an option"),
        (changed(options={"ca": "/etc/shadow"}), "ca: want an option"),
        (changed(options={"kind": "command"}), "kind: want an option"),
        (changed(options={"fps": float("inf")}), "fps: want a finite number"),
        (changed(options={"fps": 1 << 80}), "fps: want a finite number"),
        (changed(options={"columns": ["a"]}), "columns: want a text"),
    ],
)
def test_a_list_that_names_files_programs_or_secrets_is_refused_and_the_secret_not_repeated(camera, problem):
    (found,) = camera_problems([camera])
    assert problem in found
    assert SECRET not in found


def test_lists_are_bounded_and_names_are_unique():
    assert camera_problems([DOOR, DOOR]) == ["door: stands twice"]
    assert camera_problems([changed(name=f"c{n}") for n in range(65)]) == ["want at most 64 cameras, got 65"]
    long = [changed(name=f"c{n}", options={"user": "a" * 900}) for n in range(64)]
    assert camera_problems(long)[0].startswith("want at most 32768 bytes")


@pytest.mark.parametrize("password", ["", " x", "a\nb", "a\0b", "x" * 257])
def test_a_password_is_one_line_of_printable_characters(password):
    assert password_problem(password)
    assert password not in password_problem(password) or not password.strip()


def test_a_device_takes_only_its_own_list_with_exactly_the_passwords_of_its_cameras():
    camera = changed(password_unix_ms=5)
    good = CameraList(device="box", cameras=(camera,), passwords={"door": SECRET}, salt="1")
    assert decode_list(msgspec.json.encode(good), "box") == good
    for device, fields in (
        ("other", {}),
        ("box", {"passwords": {}}),
        ("box", {"passwords": {"door": SECRET, "yard": "x"}}),
        ("box", {"cameras": (changed(kind="command"),), "passwords": {}}),
    ):
        with pytest.raises(ProtocolError) as caught:
            decode_list(msgspec.json.encode(msgspec.structs.replace(good, **fields)), device)
        assert SECRET not in str(caught.value)


def test_only_a_camera_with_a_password_has_its_file_in_the_table():
    assert all(isinstance(takes, bool) for takes in KINDS.values())
    assert "password_file" not in source_table(DOOR, "/p")
    assert source_table(changed(password_unix_ms=5), "/p")["password_file"] == "/p"
