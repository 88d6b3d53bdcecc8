"""A network camera comes back from everything, its pictures are fresh, and each fault has its code.

The camera is GStreamer's RTSP server as a child process; its picture is a clock.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import logging
import os
import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from brokers import free_port
from bundles import make_detector
from rtsp_camera import Camera, age_s, burnt_ms, descriptors, needs_rtsp_server
from runnable import ROOT, documented, runnable, write_image_bundle

from edgekit.cli.main import main
from edgekit.core.addresses import shown
from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.libav import write_clip
from edgekit.pipeline.quick import quick_config
from edgekit.pipeline.sources import SourceContext, rtsp, rtsp_session
from edgekit.pipeline.sources.rtsp import RtspOptions, RtspSource
from edgekit.pipeline.sources.rtsp_address import parse_address
from edgekit.pipeline.sources.rtsp_session import Access, Session
from edgekit.pipeline.sources.timing import StreamClock

PASSWORD = "s3:cret@/ü"
EXAMPLE = (ROOT / "examples/rtsp.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _server():
    needs_rtsp_server()


@pytest.fixture(scope="module")
def shared():
    """A camera that no test disturbs."""
    camera = Camera()
    yield camera
    camera.close()


@pytest.fixture
def camera():
    """A camera of the test's own."""
    made = Camera()
    yield made
    made.close()


@pytest.fixture
def opened():
    """Open sources, which are closed at the test's end."""
    sources = []

    def open_source(uri, **options):
        source = RtspSource(RtspOptions(uri=uri, **options), SourceContext())
        sources.append(source)
        source.open()
        return source

    yield open_source
    for source in sources:
        source.close()


def frames_of(source, count):
    return [source.read() for _ in range(count)]


def assert_fresh(frames):
    """No frame is older than a second by its burnt clock, and they are in order.

    A machine that stands still for a while makes the frames under way older by that: each reader has a pulse.
    """
    ages = [(int(frame.meta["read_ms"]) - burnt_ms(frame.data)) / 1e3 for frame in frames]
    late = [age for age, frame in zip(ages, frames, strict=True) if age >= 1.0 + frame.meta["paused_s"]]
    assert late == []
    painted = [burnt_ms(frame.data) for frame in frames]
    assert painted == sorted(painted)
    numbers = [frame.seq for frame in frames]
    assert numbers == sorted(set(numbers))


class Pulse:
    """Beats 50 times a second; ``longest_s`` is how much later than due a beat of the last seconds came."""

    def __init__(self):
        self._late_s = collections.deque([0.0], maxlen=100)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def longest_s(self):
        return max(list(self._late_s))

    def _beat(self):
        before_s = time.monotonic()
        while not self._ended.wait(0.02):
            now_s = time.monotonic()
            self._late_s.append(max(0.0, now_s - before_s - 0.02))
            before_s = now_s

    def end(self):
        self._ended.set()
        self._thread.join()


class Reader:
    """Reads a source in a thread, as the loop does, and keeps the frames with the time of their delivery."""

    def __init__(self, source):
        self.source, self.frames, self.error = source, [], None
        self._pulse = Pulse()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._came = threading.Condition()
        self._thread.start()

    def _run(self):
        try:
            while (frame := self.source.read()) is not None:
                frame.meta["read_ms"] = time.monotonic() * 1000
                frame.meta["paused_s"] = self._pulse.longest_s
                with self._came:
                    self.frames.append(frame)
                    self._came.notify_all()
        except SourceError as error:
            self.error = error

    def wait_for(self, is_true, timeout_s=60):
        with self._came:
            assert self._came.wait_for(lambda: is_true(self), timeout_s), self.source.state()

    def wait_for_more(self, count=5):
        have = len(self.frames)
        self.wait_for(lambda reader: len(reader.frames) >= have + count)

    def end(self):
        self.source.close()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._pulse.end()


def until(is_true, timeout_s=60):
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_frames_are_fresh_and_in_order(shared, opened):
    reader = Reader(opened(shared.uri()))
    reader.wait_for_more(25)
    reader.end()
    assert_fresh(reader.frames)
    assert reader.frames[0].data.shape == (240, 320, 3)


def test_frames_are_on_the_streams_times_whenever_their_packets_come(opened):
    """Every second packet comes 30 ms late; a quicker one than any before moves the stream's clock back."""
    with contextlib.closing(Camera("--late-ms", "0", "30")) as camera:
        reader = Reader(opened(camera.uri()))
        reader.wait_for_more(25)
        reader.end()
    painted_ms = [burnt_ms(frame.data) for frame in reader.frames]
    captured_ms = [frame.captured_ns / 1e6 for frame in reader.frames]
    ahead_ms = [captured - painted for captured, painted in zip(captured_ms, painted_ms, strict=True)]
    assert max(after - before for before, after in itertools.pairwise(ahead_ms)) < 3  # painted in whole ones


def test_a_slow_reader_gets_the_latest_frame_and_no_growing_delay(shared, opened):
    source = opened(shared.uri())
    source.read()
    ages, numbers = [], []
    for _ in range(6):
        time.sleep(0.2)  # five frames come meanwhile; it stands for work, not for a wait
        frame = source.read()
        ages.append(age_s(frame.data))
        numbers.append(frame.seq)
    assert min(ages[3:]) < 0.5  # a queue would have made each of these more than 0.6 s old
    assert numbers[-1] - numbers[0] >= 15  # the others are gaps, and count as dropped


def lost_by(source, fault):
    state = source.state()
    return (state["state"], state["fault"]) == ("lost", fault)


def test_a_frozen_camera_is_stalled_and_fresh_again_after_it_thaws(camera, opened):
    reader = Reader(opened(camera.uri(), stall_s=1.0, open_s=1.0))
    reader.wait_for_more()
    camera.freeze()
    until(lambda: lost_by(reader.source, "STALLED"))  # a busy machine may have stalled it before
    until(lambda: lost_by(reader.source, "TIMEOUT"))
    assert reader.source.due_s is None
    before = reader.source.state()["reopened"]
    seen = len(reader.frames)
    camera.thaw()
    reader.wait_for_more(10)
    until(lambda: reader.source.state()["state"] == "open")
    state = reader.source.state()
    reader.end()
    assert_fresh(reader.frames[seen:])
    assert state["reopened"] > before


def test_a_camera_that_was_killed_comes_back_at_another_size_within_two_seconds_of_a_keyframe(camera, opened):
    source = opened(camera.uri())
    source.packets.keep(60)
    reader = Reader(source)
    reader.wait_for_more()
    camera.kill()
    until(lambda: source.state()["fault"] == "CONNECTION_FAILED")
    seen, gone_ns = len(reader.frames), time.monotonic_ns()
    camera.start("--width", "640", "--height", "480")
    reader.wait_for_more(10)
    reader.end()
    after = reader.frames[seen:]
    assert after[0].data.shape == (480, 640, 3)
    assert_fresh(after)
    first_keyframe_ns = next(run[0].captured_ns for run in source.packets.take(gone_ns, time.monotonic_ns()))
    waited_s = after[0].meta["read_ms"] / 1e3 - first_keyframe_ns / 1e9
    assert waited_s <= 2.0 + after[0].meta["paused_s"]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h265", "mjpeg"])
def test_other_codecs_and_udp_give_fresh_frames_too(codec, transport, opened):
    camera = Camera("--codec", codec)
    try:
        reader = Reader(opened(camera.uri(), transport=transport))
        reader.wait_for_more(8)
        reader.end()
    finally:
        camera.close()
    assert_fresh(reader.frames[2:])


@pytest.fixture(scope="module")
def guarded():
    camera = Camera("--user", "ann", "--password", PASSWORD)
    yield camera
    camera.close()


def test_credentials_come_from_a_file_the_environment_or_the_address(guarded, opened, tmp_path, monkeypatch):
    (tmp_path / "secret").write_text(PASSWORD + "\n", encoding="utf-8")
    monkeypatch.setenv("DOOR_PASSWORD", PASSWORD)
    in_address = guarded.uri(login="ann:s3%3Acret%40%2F%C3%BC@")
    for uri, options in (
        (guarded.uri(), {"user": "ann", "password_file": str(tmp_path / "secret")}),
        (guarded.uri(), {"user": "ann", "password_env": "DOOR_PASSWORD"}),
        (in_address, {}),
    ):
        assert opened(uri, **options).read() is not None


def test_no_error_log_or_state_shows_a_password(guarded, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "wrong").write_text("hunter2-wrong\n")
    uri = guarded.uri(login="ann:hunter2-address@")
    for options in ({}, {"user": "ann", "password_file": str(tmp_path / "wrong")}):
        source = RtspSource(RtspOptions(uri=uri, **options), SourceContext())
        with pytest.raises(SourceError) as caught:
            source.open()
        shown_text = [caught.value.render(), repr(caught.value), str(source.state()), caplog.text]
        shown_text += [str(vars(record)) for record in caplog.records]
        shown_text += [str(vars(caught.value)), str(caught.value.__cause__), str(caught.value.__context__)]
        assert "hunter2" not in "".join(shown_text)
        assert guarded.uri() in caught.value.message
        source.close()


FAULTS = [
    ("AUTH_FAILED", "guarded", "door", {}),
    ("AUTH_FAILED", "guarded", "door", {"user": "ann", "password_env": "WRONG_PASSWORD"}),
    ("AUTH_FAILED", "guarded", "door", {"user": "ann", "password_file": "/no/such/file"}),
    ("AUTH_FAILED", "guarded", "door", {"user": "ann", "password_env": "NOT_SET_ANYWHERE"}),
    ("NOT_FOUND", "shared", "garden", {}),
]


@pytest.mark.parametrize(("fault", "which", "path", "options"), FAULTS)
def test_each_fault_of_opening_has_its_code(fault, which, path, options, request, monkeypatch):
    monkeypatch.setenv("WRONG_PASSWORD", "wrong")
    assert_fault(request.getfixturevalue(which).uri(path), fault, **options)


def assert_fault(uri, fault, **options):
    source = RtspSource(RtspOptions(uri=uri, **options), SourceContext())
    try:
        with pytest.raises(SourceError) as caught:
            source.open()
    finally:
        source.close()
    assert caught.value.fault == fault
    assert f"{fault}: " in caught.value.message
    assert caught.value.fault in SourceError.FAULTS
    assert source.state()["fault"] == fault
    return caught.value


def test_a_camera_that_is_off_and_a_name_that_is_unknown_are_connection_failures():
    assert_fault(f"rtsp://127.0.0.1:{free_port()}/door", "CONNECTION_FAILED")
    error = assert_fault("rtsp://no.such.host.invalid/door", "CONNECTION_FAILED")
    assert "name" in error.message


def test_a_stream_without_a_decoder_and_a_silent_server_have_their_codes(camera):
    odd = Camera("--codec", "unknown")
    try:
        assert_fault(odd.uri(), "CODEC_UNSUPPORTED", open_s=1.0)
    finally:
        odd.close()
    camera.freeze()
    assert_fault(camera.uri(), "TIMEOUT", open_s=0.5)


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A camera with a certificate that it signed itself, for another name; and the certificate's file."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=IPC"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    camera = Camera("--certificate", str(both))
    yield camera, certificate
    camera.close()


def test_a_pinned_certificate_is_the_only_one_that_is_accepted(secure, opened):
    camera, certificate = secure
    uri = camera.uri(scheme="rtsps")
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
    with_colons = ":".join(pin[at : at + 2].upper() for at in range(0, 64, 2))
    reader = Reader(opened(uri, fingerprint=with_colons))
    reader.wait_for_more(10)
    reader.end()
    assert_fresh(reader.frames)
    assert pin in assert_fault(uri, "TLS", fingerprint="00" * 32).message
    assert "fingerprint" in assert_fault(uri, "TLS").hint
    assert_fault(uri, "TLS", ca=str(certificate))  # trusted, but for another name
    assert_fault(uri, "TLS", ca="/no/such/file")


def test_what_a_password_is_worth_is_not_tried_every_second(guarded):
    source = RtspSource(RtspOptions(uri=guarded.uri()), SourceContext())
    ended = []
    thread = threading.Thread(target=lambda: ended.append(source.reopener.again("gone", "AUTH_FAILED")))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert source.state()["fault"] == "AUTH_FAILED"
    source.close()
    thread.join(5)
    assert ended == [None]


def test_clips_are_the_main_streams_packets_and_detection_has_the_sub_stream(shared, opened, tmp_path):
    import av

    large = Camera("--width", "640", "--height", "480")
    source = RtspSource(RtspOptions(uri=shared.uri(), main_uri=large.uri()), SourceContext())
    try:
        source.packets.keep(2.0)
        source.open()
        reader = Reader(source)
        until(lambda: len(source.packets.take(0, time.monotonic_ns())) and reader.frames)
        reader.wait_for_more(30)
        frame = reader.frames[-1]
        (run,) = source.packets.take(frame.captured_ns - 1e9, frame.captured_ns)
        assert source.state()["main"]["state"] == "open"
        large.kill()
        until(lambda: source.state()["main"]["state"] == "lost")
        reader.wait_for_more(5)  # clips are lost, detection goes on
    finally:
        reader.end()
        large.close()
    assert frame.data.shape == (240, 320, 3)
    write_clip(tmp_path / "clip.mp4", run)
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        pictures = [picture.to_ndarray(format="bgr24") for picture in clip.decode(video=0)]
    assert pictures[0].shape == (480, 640, 3)
    shown_ms, last_ms = burnt_ms(pictures[0]), burnt_ms(pictures[-1])
    assert last_ms - shown_ms >= 950
    assert abs(last_ms - burnt_ms(frame.data)) < 200  # one clock for both streams


@pytest.mark.parametrize("hides", [False, True])
def test_a_blackout_is_black_in_a_clip_of_the_time_before_an_event(shared, tmp_path, hides):
    """Without one the clip is the camera's own packets, which have the clock."""
    import av

    make_detector(tmp_path / "m")
    area = "[[blackout]]\npolygon = [[0, 0], [1, 0], [1, 0.5], [0, 0.5]]" if hides else ""
    text = f"""
[pipeline]
name = "door"
model = "m"
[source]
kind = "rtsp"
uri = "{shared.uri()}"
[events]
appear = 40
window = 40
{area}
[[sink]]
kind = "clips"
path = "clips"
after_s = 0.5
"""
    (tmp_path / "door.toml").write_text(text)
    assert main(["run", str(tmp_path / "door.toml"), "--frames", "60"]) == 0
    (clip,) = (tmp_path / "clips").glob("*.mp4")
    with av.open(str(clip)) as container:
        pictures = [picture.to_ndarray(format="gray") for picture in container.decode(video=0)]
    assert len(pictures) > 40
    assert [picture[:118].max() < 40 for picture in pictures] == [hides] * len(pictures)
    assert all(picture[124:].max() > 40 for picture in pictures)


def test_without_a_main_stream_the_packets_are_those_of_the_only_one(shared, opened):
    source = opened(shared.uri())
    source.packets.keep(1.0)
    reader = Reader(source)
    reader.wait_for_more(40)
    reader.end()
    (run,) = source.packets.take(0, time.monotonic_ns())
    assert run[0].is_keyframe
    assert run[0].stream.width_px == 320


def test_packets_that_nobody_takes_are_bounded_and_go_on_at_a_keyframe(shared, monkeypatch):
    monkeypatch.setattr(rtsp_session, "MAX_WAITING", 20)
    session = Session(Access(parse_address(shared.uri()), "tcp", 5.0, 2.0), keeps=True)
    try:
        until(lambda: session._missing > 20)
        packets, missing = session.take()
    finally:
        session.close(5)
    assert missing > 20
    assert 0 < len(packets) <= 20
    assert packets[0].is_keyframe
    assert session.take() == ([], 0)


def test_a_picture_that_is_decoded_too_late_is_left_out_until_the_next_keyframe(shared, opened, monkeypatch):
    source = opened(shared.uri())
    source.read()
    monkeypatch.setattr(rtsp, "MAX_AGE_S", -1.0)
    packets, _ = source._session.take()
    assert source._latest(packets, 0) is None
    monkeypatch.undo()
    before = source._seq
    frame = source.read()
    assert frame.seq >= before
    assert age_s(frame.data) < 1.0


def test_frames_can_be_halved(shared, opened):
    source = opened(shared.uri())
    source.halve(1)
    assert source.read().data.shape == (120, 160, 3)


def counts():
    return descriptors(), threading.active_count()


def rss_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def restart(uri, times):
    for _ in range(times):
        source = RtspSource(RtspOptions(uri=uri), SourceContext())
        source.open()
        assert source.read() is not None
        source.close()


def assert_nothing_is_left(uri, times, allowed_kb):
    restart(uri, 10)  # libraries load and pools fill
    until(lambda: not [t for t in threading.enumerate() if t.name == "rtsp"])
    before, before_kb = counts(), rss_kb()
    restart(uri, times)
    until(lambda: not [t for t in threading.enumerate() if t.name == "rtsp"])
    assert counts() == before
    assert rss_kb() - before_kb < allowed_kb


def test_restarts_leave_no_descriptor_thread_or_memory_behind(shared):
    assert_nothing_is_left(shared.uri(), 20, 3000)


@pytest.mark.slow
def test_five_hundred_restarts_leave_nothing_behind(shared):
    assert_nothing_is_left(shared.uri(), 500, 8000)


@pytest.fixture(scope="module")
def lossy():
    """A camera in a network of its own that loses one packet in twenty."""
    tools = [tool for tool in ("ip", "iptables") if not shutil.which(tool)]
    if os.geteuid() != 0 or tools:
        pytest.skip(f"needs root, ip and iptables: packaging/system_packages.sh {tools}")
    name, number = f"ek{os.getpid()}", os.getpid() % 200
    here, there = f"10.213.{number}.1", f"10.213.{number}.2"
    inside = ["ip", "netns", "exec", name]

    def do(*words):
        subprocess.run(words, check=True, capture_output=True)

    do("ip", "netns", "add", name)
    try:
        do("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        do("ip", "addr", "add", f"{here}/30", "dev", f"{name}a")
        do("ip", "link", "set", f"{name}a", "up")
        do(*inside, "ip", "addr", "add", f"{there}/30", "dev", f"{name}b")
        do(*inside, "ip", "link", "set", f"{name}b", "up")
        rule = ["-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP"]
        do(*inside, "iptables", "-A", "OUTPUT", *rule)
        camera = Camera("--in-band", prefix=inside, host=there)
        yield camera
        camera.close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_with_one_packet_in_twenty_lost_no_frame_is_old(lossy, opened, transport):
    reader = Reader(opened(lossy.uri(), transport=transport))
    reader.wait_for_more(50)
    reader.end()
    readable = [frame for frame in reader.frames if burnt_ms(frame.data) is not None]
    assert len(readable) >= 0.6 * len(reader.frames)  # a decoder conceals what is lost; some of it is visible
    assert_fresh(readable)


# -- addresses and configuration


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ('uri = "http://ann:hunter2@door/1"', "uri: want an address rtsp://"),
        ('uri = "rtsp://ann:hunter2@door:port/1"', "cannot be parsed"),
        ('uri = "rtsp://door/1"\nmain_uri = "/dev/hunter2"', "main_uri: want an address"),
        ('uri = "rtsp://door/1"\npassword_file = "a"\npassword_env = "B"', "got both"),
        ('uri = "rtsp://door/1"\nfingerprint = "%s"' % ("ab" * 32), "fingerprint: want it with rtsps://"),
        ('uri = "rtsps://door/1"\ntransport = "udp"', "not encrypted"),
        ('uri = "rtsps://door/1"\nfingerprint = "abc"', "fingerprint"),
    ],
)
def test_a_wrong_address_is_reported_without_what_is_in_it(source, problem):
    with pytest.raises(ConfigError) as caught:
        parse_config(f'[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "rtsp"\n{source}\n')
    assert problem in caught.value.render()
    assert "hunter2" not in caught.value.render()


def test_an_address_is_shown_without_credentials_and_query():
    address = parse_address("rtsp://a%40b:p%3Aq@[fe80::1]:8554/x?channel=1&token=secret")
    assert (address.user, address.password, address.port) == ("a@b", "p:q", 8554)
    assert shown("rtsp://a%40b:p%3Aq@[fe80::1]:8554/x?token=secret") == "rtsp://[fe80::1]:8554/x"
    assert address.url() == "rtsp://a%40b:p%3Aq@[fe80::1]:8554/x?channel=1&token=secret"
    assert address.url(99) == "rtsp://a%40b:p%3Aq@127.0.0.1:99/x?channel=1&token=secret"
    assert "p:q" not in repr(address)
    assert shown("ann:hunter2@nonsense") == "nonsense"


def test_a_bundle_on_a_camera_names_neither_files_nor_mistakes_after_its_password():
    for source in ("rtsp://ann:hunter2@door/1?token=hunter2", "rtsp://ann:hunter2@door"):
        assert "hunter2" not in str(quick_config(Path("tiny.bundle"), source, ["jsonl"]).sinks)
    with pytest.raises(ConfigError) as caught:
        quick_config(Path("tiny.bundle"), "rtsp://a:hunter2@b:c/1")
    assert "hunter2" not in caught.value.render()


# -- the stream's clock


def test_a_burst_after_a_pause_keeps_the_times_of_its_pictures():
    clock, base = StreamClock(), 5_000_000_000
    for number in range(10):
        assert clock.captured_ns(number * 40, base + number * 40) == base + number * 40
    for number in range(10, 20):
        assert clock.captured_ns(number * 40, base + 2000) == base + number * 40


def test_a_stream_whose_time_goes_back_starts_anew_and_clocks_that_drift_are_followed():
    clock = StreamClock()
    assert clock.captured_ns(9_000_000_000, 100) == 100
    assert clock.captured_ns(0, 200) == 200
    clock, second = StreamClock(), 1_000_000_000
    for number in range(3600):  # the camera's clock is a thousandth slow
        arrived = int(number * second * 1.001)
        captured = clock.captured_ns(number * second, arrived)
        assert 0 <= arrived - captured < 0.07 * second


# -- the example and the documentation


@pytest.mark.parametrize("text", [EXAMPLE, documented("A network camera")], ids=["example", "documentation"])
def test_the_example_and_the_documentation_run_on_a_real_camera(text, guarded, tmp_path, monkeypatch, capsys):
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("DOOR_PASSWORD", PASSWORD)
    changes = {
        "rtsp://door.lan/stream1": guarded.uri(),
        "rtsp://door.lan/stream2": guarded.uri(),
        '"edgekit"': '"ann"',
    }
    if "password_file" in text:
        changes["/etc/edgekit/door"] = str(tmp_path / "password")
    else:
        changes["../detections.jsonl"] = "detections.jsonl"
    path = runnable(text, tmp_path, changes)
    assert main(["run", str(path), "--frames", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["frames"]["processed"] == 3
    assert document["source"]["state"] == "open"
    assert PASSWORD not in out + err


def test_a_run_on_a_camera_that_refuses_ends_with_the_code_and_the_fix(guarded, tmp_path, capsys):
    bundle = write_image_bundle(tmp_path / "tiny.bundle")
    uri = guarded.uri(login="ann:hunter2@")
    assert main(["run", str(bundle), "--source", uri]) == 3
    err = capsys.readouterr().err
    assert "AUTH_FAILED" in err
    assert "fix: check user" in err
    assert "hunter2" not in err
