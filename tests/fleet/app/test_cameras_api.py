"""Cameras are defined at the fleet; their passwords go in, and come out to the device concerned alone."""

import json

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_kit import ROOT, LocalFleet

from edgekit.core import wire
from edgekit.core.cameras import (
    FETCH_PATH,
    CameraList,
    CameraRequest,
    camera_problems,
    digest,
    request_bytes,
)
from edgekit_fleet.cameras.written import read_cameras
from edgekit_fleet.cli.main import main
from edgekit_fleet.identity.secret_box import SecretBox

SECRET = "correct horse battery"
DOOR = {"name": "door", "kind": "rtsp", "uri": "rtsp://10.0.0.5/2", "options": {"user": "ann"}}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with LocalFleet(tmp_path_factory.mktemp("fleet")) as running:
        running.box = running.enroll("box")
        running.other = running.enroll("other")
        yield running


@pytest.fixture
def fleet(running):
    yield running
    for stored in call(running, "GET", "/cameras")["items"]:
        call(running, "DELETE", f"/cameras/{stored['scope']}/{stored['name']}")
    for device in (running.box, running.other):
        call(running, "PUT", f"/devices/{device.device}/labels", {"labels": []})


def call(fleet, method, path, body=None, status=200):
    answer = fleet.client.request(method, f"/api/v1{path}", json=body)
    assert answer.status_code == (204 if method == "DELETE" and status == 200 else status), answer.text
    assert SECRET not in answer.text
    return answer.json() if answer.content else None


def give(fleet, *cameras, to="device/box", status=200):
    return call(fleet, "PUT", f"/cameras/{to}", {"cameras": list(cameras)}, status)


def set_password(fleet, to="device/box", camera="door", password=SECRET, status=200):
    return call(fleet, "PUT", f"/cameras/{to}/passwords/{camera}", {"password": password}, status)


def asked(identity, *, device="", key=None):
    body = wire.encode(CameraRequest(device or identity.device, (identity.folder / "device.crt").read_text()))
    signature = (key or identity.key).sign(request_bytes(body), ec.ECDSA(hashes.SHA256()))
    return wire.encode(wire.SignedPart(body, signature))


def fetched(fleet, identity):
    answer = httpx.post(fleet.ready["url"] + FETCH_PATH, content=asked(identity))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.content, msgspec.json.decode(answer.content, type=CameraList)


def desired(fleet, device="box"):
    answer = fleet.client.get(f"/api/v1/devices/{device}/desired")
    return answer.json()["config"]["cameras"]["sha256"]


def test_a_device_fetches_the_list_that_its_desired_state_names_with_the_passwords(fleet):
    give(fleet, DOOR)
    set_password(fleet)
    encoded, document = fetched(fleet, fleet.box)
    assert digest(encoded) == desired(fleet)
    assert document.passwords == {"door": SECRET}
    assert document.cameras[0].uri == "rtsp://10.0.0.5/2"
    assert fetched(fleet, fleet.box)[0] == encoded, "the same list has the same digest"
    shown = call(fleet, "GET", "/devices/box/cameras")
    assert (shown["cameras"][0]["name"], shown["in_force"]) == ("door", False)
    before = desired(fleet)
    set_password(fleet, password="another one")
    assert desired(fleet) != before


def test_a_password_is_in_no_answer_page_log_entry_file_or_retained_message(fleet):
    give(fleet, DOOR)
    set_password(fleet)
    texts = [
        fleet.client.get(f"/api/v1{path}").text
        for path in ("/cameras", "/cameras/device/box", "/devices/box/cameras", "/devices/box/desired")
    ]
    texts.append(fleet.client.get("/api/v1/audit?limit=100").text)
    assert '"action":"cameras.password"' in texts[-1]
    texts.append(fleet.client.get("/api/v1/audit/export").text)
    fleet.fleet.services.database.shorten_log()
    texts += [path.read_bytes().decode(errors="replace") for path in fleet.data.rglob("*") if path.is_file()]
    assert not any(SECRET in text for text in texts)
    assert (fleet.data / "keys" / "secrets.key").stat().st_mode & 0o077 == 0


def test_only_a_device_of_this_fleet_that_may_connect_gets_its_list(fleet):
    url = fleet.ready["url"] + FETCH_PATH
    give(fleet, DOOR)
    set_password(fleet)
    stranger = ec.generate_private_key(ec.SECP256R1())
    for content in (b"", b"x", asked(fleet.box, key=stranger), asked(fleet.other, device="box")):
        answer = httpx.post(url, content=content)
        assert (answer.status_code, SECRET in answer.text) == (401, False)
    _, document = fetched(fleet, fleet.other)
    assert document.cameras == ()
    call(fleet, "POST", "/devices/box/revoke")
    assert httpx.post(url, content=asked(fleet.box)).status_code == 403
    call(fleet, "POST", "/devices/box/restore")


def test_a_password_goes_to_no_other_host_than_it_was_set_for(fleet):
    give(fleet, DOOR)
    set_password(fleet)
    kept = give(fleet, {**DOOR, "uri": "rtsp://10.0.0.5/other", "options": {"stall_s": 3}})
    assert kept["cameras"][0]["password_unix_ms"] > 0
    for change in ({"uri": "rtsp://10.0.0.66/2"}, {"options": {"main_uri": "rtsp://10.0.0.66/1"}}):
        give(fleet, DOOR)
        set_password(fleet)
        assert give(fleet, {**DOOR, **change})["cameras"][0]["password_unix_ms"] == 0
        assert fetched(fleet, fleet.box)[1].passwords == {}


def test_a_device_gets_the_cameras_of_its_labels_and_its_own_go_before_them(fleet):
    give(fleet, DOOR, {**DOOR, "name": "hall"}, to="label/entrance")
    call(fleet, "PUT", "/devices/box/labels", {"labels": ["entrance"]})
    give(fleet, {**DOOR, "uri": "rtsp://10.0.0.9/1"})
    uris = {camera.name: camera.uri for camera in fetched(fleet, fleet.box)[1].cameras}
    assert uris == {"door": "rtsp://10.0.0.9/1", "hall": "rtsp://10.0.0.5/2"}
    call(fleet, "PUT", "/devices/box/labels", {"labels": []})
    assert [camera.name for camera in fetched(fleet, fleet.box)[1].cameras] == ["door"]


def test_two_labels_of_one_device_with_one_camera_are_refused_and_nothing_changes(fleet):
    call(fleet, "PUT", "/devices/box/labels", {"labels": ["entrance", "yard"]})
    give(fleet, DOOR, to="label/entrance")
    before = desired(fleet)
    refusal = give(fleet, DOOR, to="label/yard", status=422)
    assert "two cameras 'door'" in refusal["detail"]
    assert desired(fleet) == before
    call(fleet, "GET", "/cameras/label/yard", status=404)


def test_a_bad_list_is_refused_with_every_reason(fleet):
    refusal = give(
        fleet,
        {**DOOR, "uri": f"rtsp://ann:{SECRET}@10.0.0.5/2"},
        {**DOOR, "name": "x", "kind": "command"},
        status=422,
    )
    assert [reason.split(":")[0] for reason in refusal["reasons"]] == ["door", "x"]
    give(fleet, {**DOOR, "name": "n" * 65}, status=422)
    call(fleet, "PUT", "/cameras/device/nobody", {"cameras": []}, 404)
    give(fleet, DOOR, to="label/No", status=422)
    give(fleet, DOOR)
    set_password(fleet, camera="yard", status=422)
    set_password(fleet, password=f"{SECRET}\n", status=422)


def test_a_deleted_device_leaves_no_camera_and_no_password_behind(fleet):
    gone = fleet.enroll("gone").device
    give(fleet, DOOR, to=f"device/{gone}")
    set_password(fleet, f"device/{gone}")
    call(fleet, "DELETE", f"/devices/{gone}")
    call(fleet, "GET", f"/cameras/device/{gone}", status=404)
    with fleet.fleet.services.database.read() as sql:
        assert sql.execute("SELECT count(*) FROM camera_password WHERE name = ?", (gone,)).fetchone()[0] == 0


def test_a_password_that_was_set_with_another_key_is_named_and_can_be_set_again(fleet, tmp_path, monkeypatch):
    give(fleet, DOOR)
    set_password(fleet)
    monkeypatch.setattr(fleet.fleet.services.cameras, "_box", SecretBox(tmp_path / "keys" / "another"))
    answer = httpx.post(fleet.ready["url"] + FETCH_PATH, content=asked(fleet.box))
    assert (answer.status_code, answer.json()["hint"][:12]) == (422, "set it again")
    set_password(fleet)
    assert fetched(fleet, fleet.box)[1].passwords == {"door": SECRET}


def test_the_command_defines_cameras_and_never_shows_a_password(fleet, tmp_path, capsys):
    where = ("--fleet", fleet.ready["url"], "--token", fleet.client.headers["Authorization"].split()[1])

    def run(*words):
        code = main(["cameras", *map(str, words), *where, "--json"])
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return code, json.loads(said.out or "{}")

    (tmp_path / "cameras.toml").write_text(
        '[[camera]]\nname = "door"\nkind = "rtsp"\nuri = "rtsp://10.0.0.5/2"\nuser = "ann"\n'
    )
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert run("set", tmp_path / "cameras.toml", "--label", "entrance")[0] == 0
    code, stored = run("password", "door", "--label", "entrance", "--password-file", tmp_path / "secret")
    assert (code, stored["cameras"][0]["password_unix_ms"] > 0) == (0, True)
    assert run("label", "box", "entrance")[1]["labels"] == ["entrance"]
    assert run("show", "box")[1]["cameras"][0]["options"] == {"user": "ann"}
    assert [stored["name"] for stored in run("list")[1]["lists"]] == ["entrance"]
    assert run("remove", "--label", "entrance")[0] == 0
    (tmp_path / "cameras.toml").write_text("[camera]\n")
    assert run("set", tmp_path / "cameras.toml", "--device", "box")[0] == 2


def test_the_list_in_the_documentation_is_a_list():
    page = (ROOT / "docs" / "cameras.md").read_text(encoding="utf-8")
    cameras = read_cameras(page.partition("```toml\n")[2].partition("```")[0], "docs/cameras.md")
    assert [camera.name for camera in cameras] == ["door"]
    assert camera_problems(cameras) == []
