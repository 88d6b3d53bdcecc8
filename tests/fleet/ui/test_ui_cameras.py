"""The pages on which cameras are defined: who may, what they refuse, and that no password is shown."""

import httpx
import pytest

from edgekit.core.cameras import CameraState
from edgekit.core.wire import Reported

SECRET = "correct horse battery"
LIST = '[[camera]]\nname = "door"\nkind = "rtsp"\nuri = "rtsp://10.0.0.5/2"\nuser = "ann"\nstall_s = 3.5'


@pytest.fixture
def operator(site):
    site.services.devices.enroll("cam-1", 0, None)
    with site.visitor("operator") as visitor:
        yield visitor


def post(site, visitor, path, **form):
    return visitor.post(path, data=form, headers={"Origin": site.url})


def test_an_operator_defines_cameras_and_their_passwords_on_a_page_that_shows_none(site, operator):
    assert "No camera is defined yet" in operator.get("/cameras").text
    where = operator.get("/cameras/open?scope=device&name=cam-1").headers["location"]
    assert post(site, operator, where, cameras=LIST).status_code == 303
    assert post(site, operator, f"{where}/passwords/door", password=SECRET).status_code == 303
    pages = [operator.get(path).text for path in (where, "/cameras", "/devices/cam-1")]
    assert LIST.replace('"', "&#34;") in pages[0]
    assert not any(SECRET in page for page in pages)
    assert "not taken by the device yet" in pages[2]
    sha256 = site.services.cameras.wanted_sha256("cam-1")
    for state, said in (
        (CameraState(sha256, ("door",)), "in force"),
        (CameraState("", (), "camera door:source.fbs: want nothing"), "source.fbs: want nothing"),
    ):
        reported = Reported("b", 1 << 40, 0, cameras=state)
        site.services.devices.take_reported("cam-1", reported, 1)
        assert said in operator.get("/devices/cam-1").text
    assert post(site, operator, f"{where}/delete").headers["location"] == "/cameras"
    assert site.services.cameras.effective("cam-1") == ()


def test_a_list_that_is_not_valid_is_shown_again_with_every_reason(site, operator):
    answer = post(site, operator, "/cameras/label/yard", cameras=LIST.replace("rtsp", "command"))
    assert (answer.status_code, "door: kind: want one of" in answer.text) == (422, True)
    assert "command" in answer.text
    assert "is not TOML" in post(site, operator, "/cameras/label/yard", cameras="[[camera]").text
    assert post(site, operator, "/cameras/device/nobody", cameras=LIST).status_code == 404


def test_labels_are_set_on_the_devices_page(site, operator):
    post(site, operator, "/cameras/label/yard", cameras=LIST)
    assert post(site, operator, "/devices/cam-1/labels", labels="yard, gate").status_code == 303
    assert "labels gate, yard" in operator.get("/devices/cam-1").text
    assert [camera.name for camera in site.services.cameras.effective("cam-1")] == ["door"]


def test_a_viewer_sees_which_cameras_there_are_and_changes_none(site, operator):
    post(site, operator, "/cameras/label/yard", cameras=LIST)
    with site.visitor("viewer") as viewer:
        assert "door" in viewer.get("/cameras").text
        assert viewer.get("/cameras/label/yard").status_code == 403
        assert post(site, viewer, "/cameras/label/yard", cameras="").status_code == 403
        assert post(site, viewer, "/devices/cam-1/labels", labels="x").status_code == 403
    assert httpx.get(f"{site.url}/cameras").status_code == 303
