"""A program's frames arrive whole, its end and its silence are named, and no process is left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rtsp_camera import Camera, age_s, needs_rtsp_server
from runnable import ROOT, documented, runnable

from edgekit.cli.main import main
from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.command import CommandOptions, CommandSource
from edgekit.pipeline.sources.recipes import RECIPES, survey_decoders

SIZE = 8 * 16 * 3
FRAMES = f"import os\nfor n in range({{count}}): os.write(1, bytes([n]) * {SIZE})\n{{rest}}"


def source_of(code, **options):
    words = (sys.executable, "-c", code)
    return CommandSource(CommandOptions(width=16, height=8, command=words, **options), SourceContext())


@pytest.fixture
def opened():
    sources = []

    def open_source(code, **options):
        source = source_of(code, **options)
        sources.append(source)
        source.open()
        return source

    yield open_source
    for source in sources:
        source.close()


def children():
    """The processes that this one started, zombies too."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return [line for line in listed.stdout.splitlines() if " ps " not in line]


@pytest.fixture
def left():
    """What this process has started since the test began, and not ended: other tests share servers."""
    before = {each.split()[0] for each in children()}
    return lambda: [each for each in children() if each.split()[0] not in before]


def test_frames_arrive_whole_and_in_order(opened):
    source = opened(FRAMES.format(count=50, rest="import time; time.sleep(60)"))
    frames = [source.read() for _ in range(50)]
    assert [frame.seq for frame in frames] == list(range(50))
    assert [int(frame.data[3, 5, 1]) for frame in frames] == list(range(50))
    assert all(frame.data.shape == (8, 16, 3) and len(set(frame.data.flat)) == 1 for frame in frames)


def test_grey_frames_become_three_equal_channels(opened):
    source = opened("import os, time; os.write(1, bytes(range(128))); time.sleep(60)", pixels="gray")
    frame = source.read()
    assert frame.data.shape == (8, 16, 3)
    assert (frame.data[..., 0] == np.arange(128).reshape(8, 16)).all()
    assert (frame.data[..., 2] == frame.data[..., 0]).all()


def test_a_program_that_ends_is_started_again_and_its_last_words_are_kept(opened):
    words = "rtsp://ann:hunter2@door/1: Connection refused"
    end = f"import sys; os.write(1, b'half'); print({words!r}, file=sys.stderr); sys.exit(3)"
    source = opened(FRAMES.format(count=2, rest=end))
    assert [int(source.read().data[0, 0, 0]) for _ in range(5)] == [0, 1, 0, 1, 0]
    state = source.state()
    assert (state["reopened"], state["fault"]) == (2, "CONNECTION_FAILED")
    assert "ended (exit code 3)" in state["reason"]
    assert "rtsp://door/1: Connection refused" in state["reason"]
    assert "hunter2" not in state["reason"]


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://ann:hunter2@door/1",
        "rtsp://ann:hu@hunter2@door/1",
        "rtsp://ann:hu/hunter2@door/1",
        "rtsp+tcp://door/1?password=hunter2",
    ],
)
def test_the_last_words_of_a_program_show_no_password_of_an_address(address):
    command = (sys.executable, "-c", f"import sys; sys.exit('cannot open {address} : refused')")
    source = CommandSource(CommandOptions(width=16, height=8, command=command), SourceContext())
    with pytest.raises(SourceError, match="door/1 : refused") as caught:
        source.open()
    source.close()
    assert "hunter2" not in str(caught.value)


def test_a_program_that_falls_silent_is_started_again(opened):
    source = opened(FRAMES.format(count=1, rest="import time; time.sleep(60)"), stall_s=0.4)
    assert [source.read().seq for _ in range(2)] == [0, 1]
    assert source.state()["fault"] == "STALLED"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("/no/such/program",), "there is no such program"),
        (("/etc/passwd",), "is no program that this user may run"),
        ((sys.executable, "-c", "import sys; sys.exit('no camera')"), "exit code 1): no camera"),
        (
            (sys.executable, "-c", "import sys; sys.exit('no\\33[2J \\x9bcamera')"),
            "exit code 1): no[2J camera",
        ),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "no whole frame came for 0.5 s"),
    ],
)
def test_a_program_that_gives_no_frame_cannot_be_opened(words, text, left):
    source = CommandSource(CommandOptions(width=16, height=8, command=words, stall_s=0.5), SourceContext())
    with pytest.raises(SourceError) as caught:
        source.open()
    assert text in caught.value.message
    source.close()
    assert left() == []


def test_a_program_that_leaves_a_daemon_behind_leaves_no_thread_and_no_descriptor(tmp_path):
    """A daemon has a session of its own, and holds the program's stderr."""
    code = f"""import subprocess, sys
daemon = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
open({str(tmp_path / "pids")!r}, "a").write(f"{{daemon.pid}}\\n")
sys.exit(1)"""

    def held():
        readers = [thread for thread in threading.enumerate() if thread.name == "command-log"]
        return len(readers), len(list(Path("/proc/self/fd").iterdir()))

    readers, descriptors = held()
    try:
        for _ in range(3):
            source = source_of(code)
            with pytest.raises(SourceError, match=r"ended \(exit code 1\)"):
                source.open()
            source.close()
        assert held()[0] == readers
        assert held()[1] <= descriptors
    finally:
        for pid in (tmp_path / "pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_closing_ends_a_wait_and_everything_that_the_program_started(opened, left):
    code = FRAMES.format(
        count=1, rest="import subprocess, time; subprocess.Popen(['sleep', '987']); time.sleep(60)"
    )
    source = opened(code)
    source.read()
    ended = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    source.close()
    thread.join(10)
    assert ended == [None]
    assert left() == []
    assert subprocess.run(["pgrep", "-f", "^sleep 987$"], capture_output=True, check=False).stdout == b""


def test_a_killed_edgekit_leaves_no_program_behind(tmp_path):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from edgekit.pipeline.sources.command import *
words = ("sh", "-c", "head -c 384 /dev/zero; exec sleep 986")
source = CommandSource(CommandOptions(width=16, height=8, command=words), SourceContext())
source.open()
print("open", flush=True)
source.read(), source.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"open\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    end_s = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", "^sleep 986$"], capture_output=True, check=False).stdout:
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "command: want this or recipe"),
        ('recipe = "pi9"\nuri = "rtsp://x/1"', "recipe: want one of gstreamer"),
        ('recipe = "intel"', "uri: want an address rtsp://"),
        ('recipe = "intel"\nuri = "rtsp://x/1"\npixels = "gray"', 'pixels: want "bgr24"'),
    ],
)
def test_a_command_that_cannot_be_is_reported(text, problem):
    head = '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "command"\nwidth = 64\nheight = 64\n'
    with pytest.raises(ConfigError) as caught:
        parse_config(head + text)
    assert problem in caught.value.render()


def test_doctor_says_which_recipe_works_and_why_another_does_not(tmp_path):
    needs_rtsp_server()
    rows = {row.name: row for row in survey_decoders()}
    assert list(rows) == list(RECIPES)
    assert rows["gstreamer"].works
    assert [name for name, recipe in RECIPES.items() if recipe.was_run] == ["gstreamer"]
    assert rows["pi4-h264"].works or rows["pi4-h264"].reason
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video10").touch()
    captured = {row.name: row.reason for row in survey_decoders(tmp_path)}
    assert captured["pi4-h264"] == "not tried: captured facts"
    assert captured["pi5-h265"] == "there is no /dev/video19"


def test_the_ready_command_line_gives_fresh_frames_of_a_real_camera(tmp_path, capsys):
    needs_rtsp_server()
    camera = Camera()
    options = CommandOptions(width=320, height=240, recipe="gstreamer", uri=camera.uri())
    source = CommandSource(options, SourceContext())
    try:
        source.open()
        ages = [age_s(source.read().data) for _ in range(25)]
        source.close()
        text = (ROOT / "examples/command.toml").read_text(encoding="utf-8")
        changes = {"rtsp://door.lan/stream2": camera.uri(), "../detections.jsonl": "detections.jsonl"}
        path = runnable(text, tmp_path, changes)
        assert main(["run", str(path), "--frames", "3", "--json"]) == 0
    finally:
        source.close()
        camera.close()
    assert max(ages[5:]) < 1.0
    assert json.loads(capsys.readouterr().out)["frames"]["processed"] == 3


def test_the_documentations_program_runs(tmp_path, capsys):
    needs_rtsp_server()
    path = runnable(documented("A program that writes frames"), tmp_path, {})
    assert main(["run", str(path), "--frames", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"]["processed"] == 3
    assert "not run here" in Path(ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
