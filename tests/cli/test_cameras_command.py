"""``edgekit cameras``: what is attached, what is on the network, and a source that runs as it is printed."""

import json
import time

import msgspec
import pytest
from boards import plant
from onvif_responder import Responder
from rtsp_camera import Camera, needs_rtsp_server
from runnable import runnable

from edgekit.cli.main import main
from edgekit.hardware.cameras import local_cameras

NAME = "usb-046d_HD_Pro_Webcam_C920_12AB-video-index"
FILES = {
    "/sys/class/video4linux/video0/name": "HD Pro Webcam C920\n",
    "/sys/class/video4linux/video0/index": "0\n",
    "/sys/class/video4linux/video0/device/driver": "->../../drivers/uvcvideo",
    "/sys/class/video4linux/video1/name": "HD Pro Webcam C920\n",
    "/sys/class/video4linux/video1/index": "1\n",
    "/sys/class/video4linux/video1/device/driver": "->../../drivers/uvcvideo",
    "/sys/class/video4linux/video2/name": "unicam-image\n",
    "/sys/class/video4linux/video2/index": "0\n",
    "/sys/class/video4linux/video2/device/driver": "->../../drivers/unicam",
    "/sys/class/video4linux/v4l-subdev0/name": "imx708_wide 10-001a\n",
    "/sys/class/video4linux/video10/name": "bcm2835-codec-decode\n",
    "/sys/class/video4linux/video10/index": "0\n",
    "/sys/class/video4linux/video10/device/driver": "->../../drivers/bcm2835-codec",
    "/dev/video0": "",
    "/dev/video1": "",
    "/dev/video2": "",
    "/dev/video10": "",
    f"/dev/v4l/by-id/{NAME}0": "->../../video0",
    f"/dev/v4l/by-id/{NAME}1": "->../../video1",
}


def cameras(capsys, *words):
    assert main(["cameras", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["cameras"]


def test_a_usb_camera_is_named_by_what_it_is_and_a_codec_is_no_camera(tmp_path, capsys):
    rows = cameras(capsys, "--sysfs-root", str(plant(tmp_path, FILES)))
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("usb", "HD Pro Webcam C920"),
        ("csi", "imx708_wide"),
    ]
    assert rows[0]["toml"] == f'[source]\nkind = "camera"\nuri = "/dev/v4l/by-id/{NAME}0"\n'
    assert 'kind = "command"' in rows[1]["toml"]
    assert "libcamerasrc" in rows[1]["toml"]


def test_a_camera_that_this_user_may_not_open_says_so(tmp_path):
    root = plant(tmp_path, FILES)
    (root / "dev/video0").chmod(0o400)
    assert "this user may not open /dev/video0" in local_cameras(root)[0].problem
    (root / "dev/video0").unlink()
    assert local_cameras(root)[0].problem == "there is no /dev/video0"


def test_a_machine_without_cameras_says_so(tmp_path, capsys):
    assert main(["cameras", "--sysfs-root", str(tmp_path)]) == 0
    assert "no camera is attached" in capsys.readouterr().out


@pytest.fixture
def responder():
    made = []

    def respond(**options):
        made.append(Responder(**options))
        return made[-1]

    yield respond
    for one in made:
        one.close()


def streams_of(uri):
    return (
        ("thumb", "H264", 160, 120, f"{uri}/thumb"),
        ("main", "H265", 3840, 2160, uri),
        ("sub", "H264", 640, 360, uri),
        ("jpeg", "JPEG", 320, 240, f"{uri}/jpeg"),
    )


def test_an_onvif_cameras_source_runs_as_it_is_printed(responder, tmp_path, capsys):
    needs_rtsp_server()
    password = tmp_path / "password"
    password.write_text("geheim\n")
    camera = Camera("--user", "ann", "--password", "geheim")
    try:
        answers = responder(
            streams=streams_of(camera.uri().replace("127.0.0.1", "192.168.99.99")),
            user="ann",
            password="geheim",
        )
        options = ["--host", f"127.0.0.1:{answers.port}", "--user", "ann", "--password-file", str(password)]
        (row,) = [row for row in cameras(capsys, *options) if row["kind"] == "onvif"]
        assert row["name"] == "Door West IPC-9"
        assert [stream["width"] for stream in row["streams"]] == [3840, 640, 320, 160]
        assert row["uri"] == camera.uri()  # of the address that answered
        assert "geheim" not in json.dumps(row)
        assert main(["run", str(runnable(row["toml"], tmp_path, {})), "--frames", "2", "--json"]) == 0
    finally:
        camera.close()


def test_the_small_stream_is_to_detect_on_and_the_large_one_to_keep(responder, capsys):
    answers = responder(streams=[(*row[:4], f"rtsp://cam/{row[0]}") for row in streams_of("")])
    (row,) = cameras(capsys, "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}")
    assert 'uri = "rtsp://127.0.0.1/sub"\nmain_uri = "rtsp://127.0.0.1/main"\n' in row["toml"]


def test_a_camera_that_wants_a_password_says_so(responder, capsys):
    answers = responder(streams=streams_of("rtsp://cam/1"), user="ann", password="geheim")
    (row,) = cameras(capsys, "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}")
    assert "wants a user and a password" in row["problem"]
    assert row["toml"] == ""


DTD = '<?xml version="1.0" encoding="{}"?><!DOCTYPE a [<!ENTITY b "http://127.0.0.1/x">]><e><XAddr>&b;</XAddr></e>'
HOSTILE = [
    b"",
    b"\xff" * 70_000,
    b"<a" * 50_000,
    b'<!DOCTYPE a [<!ENTITY b "ccc">]><Envelope><XAddr>&b;</XAddr></Envelope>',
    b"<Envelope>" + b"x" * 300_000 + b"</Envelope>",
    b"<e><XAddr>http://169.254.169.254/latest</XAddr></e>",
    DTD.format("utf-16").encode("utf-16"),
]


@pytest.mark.parametrize(
    "data", HOSTILE, ids=["empty", "bytes", "open", "dtd", "long", "elsewhere", "utf-16"]
)
def test_a_hostile_answer_is_a_problem_of_its_camera_and_no_more(data, responder, capsys):
    answers = responder(answer=data)
    began = time.monotonic()
    (row,) = cameras(capsys, "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}")
    assert row["problem"]
    assert "127.0.0.1/x" not in row["problem"]  # an entity's text
    assert time.monotonic() - began < 60
    assert len(answers.questions) == 1


@pytest.mark.parametrize("data", [*HOSTILE[:4], b"<e><XAddrs>http://169.254.169.254/x</XAddrs></e>"])
def test_a_hostile_match_is_no_camera(data, responder, capsys):
    answers = responder(match=data[:60_000])
    words = ["--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}", "--wait", "0.3"]
    assert cameras(capsys, *words) == []
    assert answers.questions == []


def test_what_a_camera_says_moves_no_cursor_and_is_toml(responder, capsys):
    """Signs that start a terminal's command, lines, quotes, letters beyond 16 bits."""
    uri = "rtsp://cam/\U0001f600é'&quot;\\1"
    answers = responder(streams=[("t", "H264&#x9b;31m&#10;x", 640, 480, uri)])
    words = ["cameras", "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert "H26431mx 640x480" in shown
    (row,) = cameras(capsys, *words[1:])
    assert msgspec.toml.decode(row["toml"])["source"]["uri"] == "rtsp://127.0.0.1/\U0001f600é'\"\\1"


@pytest.mark.parametrize(
    "xaddrs",
    [
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:http/x",
        "http://u:geheim@127.0.0.1/x",
        "http://127.0.0.1/&#x9b;2J",
    ],
)
def test_a_service_at_an_address_that_cannot_be_is_not_asked_or_shown(xaddrs, responder, capsys):
    answers = responder(xaddrs=xaddrs)
    words = ["--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}", "--wait", "0.3"]
    assert cameras(capsys, *words) == []
    assert main(["cameras", *words]) == 0
    assert f"127.0.0.1:{answers.port} did not answer within 0.3 s" in capsys.readouterr().out


def test_a_wrong_password_is_told_from_none(responder, capsys, tmp_path):
    (tmp_path / "wrong").write_text("falsch")
    answers = responder(streams=streams_of("rtsp://cam/1"), user="ann", password="geheim")
    words = ["--user", "ann", "--password-file", str(tmp_path / "wrong")]
    (row,) = cameras(capsys, "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}", *words)
    assert row["problem"].startswith("it refuses this user and password")


def test_a_host_that_has_no_address_is_an_error_that_names_it(capsys):
    host = "x" * 70  # longer than a name may be, so that no name server is asked
    assert main(["cameras", "--host", host]) == 3
    assert f"'{host}' cannot be asked: " in capsys.readouterr().err


def test_streams_that_are_no_addresses_are_left_out(responder, capsys):
    uris = ["http://cam/1", "rtsp://cam\x85/1", "rtsp://cam:99999999/1", "rtsp://cam/" + "x" * 600]
    answers = responder(streams=[(f"t{at}", "H264", 640, 480, uri) for at, uri in enumerate(uris)])
    (row,) = cameras(capsys, "--sysfs-root", "/nowhere", "--host", f"127.0.0.1:{answers.port}")
    assert row["problem"] == "it names no stream"


@pytest.mark.parametrize(
    "words",
    [
        ["--wait", "0"],
        ["--host", ":80"],
        ["--host", "10.0.0.1:65536"],
        ["--host", "10.0.0.1:0"],
        ["--password-file", "/no/such"],
    ],
)
def test_wrong_words_are_usage_errors(words, capsys):
    assert main(["cameras", *words]) == 2
    assert words[0] in capsys.readouterr().err
