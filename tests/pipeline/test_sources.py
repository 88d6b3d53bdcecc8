"""Sources give what is there, say what is not, and come back from what they can."""

import os
import sys
import threading
import time
import tty

import cv2
import msgspec
import numpy as np
import pytest
from pipeline_fakes import make_manifest, make_predictor, spec
from sensor_frames import encode_frame

from edgekit.base.plugins import load_target
from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Source
from edgekit.core.spec import Post, Pre
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.sources import (
    PICTURES_ONLY,
    SOURCES,
    SourceContext,
    make_source,
    source_context,
    timing,
)
from edgekit.pipeline.sources.camera import CameraOptions, CameraSource
from edgekit.pipeline.sources.images import ImagesOptions
from edgekit.pipeline.sources.modbus import Register
from edgekit.pipeline.sources.picamera2 import Picamera2Options
from edgekit.pipeline.sources.serial import SerialOptions, SerialSource, open_serial
from edgekit.pipeline.sources.synthetic import SyntheticOptions, shapes, waves
from edgekit.pipeline.sources.timing import Pacer, Reopener
from edgekit.pipeline.sources.video import VideoOptions

WINDOWS = SourceContext(window=4, hop=2, channels=3)


def opened(kind, options, context=None):
    source = make_source(kind, options, context or SourceContext())
    source.open()
    return source


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "made.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for seq in range(20):
        writer.write(np.full((48, 64, 3), seq * 10, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_in_the_table_is_one(kind):
    built = load_target(SOURCES[kind])
    required = [field for field in msgspec.structs.fields(built.Options) if field.required]
    options = {field.name: "x" if field.type is str else 64 for field in required}
    context = SourceContext(window=4, hop=2, channels=1, rate_hz=16_000) if kind == "audio" else WINDOWS
    values = {"modbus": ("registers", Register(address=0)), "iio": ("channels", "x"), "i2c": ("registers", 0)}
    if kind in values:
        name, value = values[kind]
        options[name] = (value,) * 3
    source = built(built.Options(**options), context)
    assert isinstance(source, Source)
    source.close()
    source.close()


# -- video


@pytest.mark.parametrize("kind", sorted(PICTURES_ONLY))
@pytest.mark.parametrize(
    ("context", "wanted"),
    [(SourceContext(window=8, channels=1), "windows of samples"), (SourceContext(columns=("a",)), "rows")],
)
def test_a_source_of_pictures_refuses_a_model_that_takes_none_before_the_first_frame(kind, context, wanted):
    assert kind in SOURCES
    with pytest.raises(ConfigError, match=f"gives pictures, and the model takes {wanted}"):
        make_source(kind, None, context)


def test_a_video_gives_every_frame_once(video):
    frames = read_all(opened("video", VideoOptions(uri=str(video))))
    assert [frame.seq for frame in frames] == list(range(20))
    assert [round(frame.data.mean() / 10) for frame in frames] == list(range(20))


def test_a_looped_video_begins_again_and_counts_on(video):
    source = opened("video", VideoOptions(uri=str(video), loop=True))
    frames = [source.read() for _ in range(45)]
    source.close()
    assert [frame.seq for frame in frames] == list(range(45))
    assert round(frames[40].data.mean()) == 0
    assert source.read() is None


def test_a_video_in_real_time_keeps_its_rate_and_is_live(video):
    source = opened("video", VideoOptions(uri=str(video), realtime=True))
    began = time.monotonic()
    frames = read_all(source)
    assert source.is_live
    assert len(frames) == 20
    assert time.monotonic() - began >= 19 / 50 * 0.95
    assert frames[0].meta["capture_ms"] >= 0


def test_a_relative_path_starts_in_the_pipelines_folder(video):
    context = SourceContext(folder=video.parent)
    assert len(read_all(opened("video", VideoOptions(uri=video.name), context))) == 20


def test_a_video_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        opened("video", VideoOptions(uri=str(tmp_path / "nothing.mp4")))


@pytest.mark.parametrize("content", [b"", b"not a video at all", bytes(1000)])
def test_a_file_that_is_no_video_is_refused(tmp_path, content):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="is not a video"):
        opened("video", VideoOptions(uri=str(path)))


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
def test_a_truncated_video_gives_what_is_whole_and_then_ends(video, tmp_path, keep):
    path = tmp_path / "cut.avi"
    data = video.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    try:
        frames = read_all(opened("video", VideoOptions(uri=str(path))))
    except SourceError as error:
        assert "video" in error.message  # noqa: PT017 - either outcome is right, neither is a crash
    else:
        assert 0 < len(frames) < 20


# -- images


def test_pictures_come_in_order_of_their_names_and_broken_ones_count_as_dropped(tmp_path):
    for number in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8, 8, 3), number, np.uint8))
    (tmp_path / "1b.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("not a picture")
    frames = read_all(opened("images", ImagesOptions(uri=str(tmp_path))))
    assert [(frame.seq, frame.meta["file"], int(frame.data[0, 0, 0])) for frame in frames] == [
        (0, "0.png", 0),
        (1, "1.png", 1),
        (3, "2.png", 2),
    ]


def test_one_picture_can_be_named_and_repeated(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((8, 8, 3), np.uint8))
    source = opened("images", ImagesOptions(uri=str(tmp_path / "one.png"), loop=True, fps=1000))
    assert [source.read().seq for _ in range(3)] == [0, 1, 2]
    source.close()
    assert source.read() is None


def test_a_folder_without_a_picture_is_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no picture"):
        opened("images", ImagesOptions(uri=str(tmp_path)))


def test_a_folder_of_nothing_but_broken_pictures_ends_even_when_looped(tmp_path):
    (tmp_path / "a.png").write_bytes(b"broken")
    source = opened("images", ImagesOptions(uri=str(tmp_path), loop=True))
    with pytest.raises(SourceError, match="not one picture can be decoded"):
        source.read()


# -- camera


class FakeCamera:
    """What OpenCV's capture does, for so many frames; then it is unplugged."""

    def __init__(self, frames, is_open=True):
        self._left, self._is_open, self.released = frames, is_open, 0

    def isOpened(self):
        return self._is_open

    def grab(self):
        self._left -= 1
        return self._left >= 0

    def retrieve(self):
        return True, np.zeros((8, 8, 3), np.uint8)

    def release(self):
        self.released += 1


def camera(devices, **options):
    queue = iter(devices)
    return CameraSource(
        CameraOptions(**options), SourceContext(), lambda _: next(queue, FakeCamera(0, is_open=False))
    )


def test_a_camera_that_is_not_there_says_what_to_do():
    with pytest.raises(SourceError) as caught:
        opened("camera", CameraOptions(uri="/dev/video99"))
    assert "'/dev/video99': cannot be opened" in caught.value.message
    assert "group 'video'" in caught.value.hint


def test_a_camera_that_vanishes_is_opened_again_and_counted():
    devices = [FakeCamera(3), FakeCamera(0, is_open=False), FakeCamera(2)]
    source = camera(devices)
    source.open()
    assert [source.read().seq for _ in range(5)] == [0, 1, 2, 3, 4]
    assert source.reopener.reopened == 1
    assert devices[0].released == devices[1].released == 1
    source.close()
    source.close()
    assert devices[2].released == 1
    assert source.read() is None


def test_a_camera_that_does_not_come_back_ends_the_run_with_its_frames_processed():
    source = camera([FakeCamera(3)], give_up_s=0.1)
    loop = Loop("test", source, make_predictor())
    with pytest.raises(SourceError, match="vanished and did not come back"):
        loop.run()
    assert loop.tally.captured == 3


def test_a_camera_that_is_tried_again_can_be_closed_meanwhile():
    source = camera([FakeCamera(0)], give_up_s=0)
    source.open()
    ended = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    source.close()
    thread.join(10)
    assert ended == [None]
    assert source.due_s == 10.0


def test_a_raspberry_pis_camera_says_how_to_install_its_library():
    source = make_source("picamera2", Picamera2Options(), SourceContext())
    with pytest.raises(ConfigError) as caught:
        source.open()
    assert "python3-picamera2" in caught.value.hint
    assert source.read() is None


# -- serial, on a real pseudo-terminal


class Line:
    """A pseudo-terminal: what a sensor writes, pyserial reads."""

    def __init__(self):
        self.sensor, reader = os.openpty()
        tty.setraw(reader)
        self.uri, self._reader = os.ttyname(reader), reader

    def write(self, data):
        while data:
            data = data[os.write(self.sensor, data) :]

    def unplug(self):
        os.close(self.sensor)
        os.close(self._reader)


@pytest.fixture
def line():
    made = Line()
    yield made
    for descriptor in (made.sensor, made._reader):
        try:
            os.close(descriptor)
        except OSError:
            continue


def row(n):
    return f"{n},{n + 0.5},{-n}\n".encode()


def test_lines_of_a_sensor_become_windows_that_overlap(line):
    source = opened("serial", SerialOptions(uri=line.uri), WINDOWS)
    line.write(b"half a li\n" + b"".join(row(n) for n in range(8)))
    frames = [source.read() for _ in range(3)]
    source.close()
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert [frame.data[:, 0].tolist() for frame in frames] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert frames[0].data.dtype == np.float32
    assert frames[0].data[1].tolist() == [1, 1.5, -1]


def test_binary_frames_survive_garbage_and_the_gap_is_counted(line):
    source = opened(
        "serial", SerialOptions(uri=line.uri, framing="binary", dtype="int16", scale=0.1), WINDOWS
    )
    frames = [encode_frame(n, np.int16([n, 0, 10]).tobytes()) for n in range(20)]
    line.write(
        b"\xa5garbage\xa5\x5a"
        + b"".join(frames[:4])
        + b"\x00\xa5\x5a\xff"
        + b"".join(frames[10:14])
        + bytes(64)
    )
    first, second = source.read(), source.read()
    source.close()
    np.testing.assert_allclose(first.data[:, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_allclose(second.data[:, 0], [1.0, 1.1, 1.2, 1.3], atol=1e-6)
    assert source.missing == 6
    assert second.seq > first.seq + 1
    assert source.rejected >= 1


def test_an_unplugged_line_is_opened_again():
    lines = [Line(), Line()]
    left = iter(lines)

    def open_next(options):
        line = next(left)
        port = open_serial(msgspec.structs.replace(options, uri=line.uri))
        first = 0 if line is lines[0] else 100
        line.write(b"\n" + b"".join(row(n) for n in range(first, first + 4)))  # opening drops what was before
        return port

    source = SerialSource(SerialOptions(uri="sensor", give_up_s=10), WINDOWS, open_next)
    source.open()
    assert source.read().data[0, 0] == 0
    lines[0].unplug()
    frame = source.read()
    assert frame.data[:, 0].tolist() == [100, 101, 102, 103]
    assert frame.seq > 1
    assert source.reopener.reopened == 1
    source.close()
    lines[1].unplug()


def test_a_line_that_waits_can_be_closed(line):
    source = opened("serial", SerialOptions(uri=line.uri), WINDOWS)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(source.read()))
    thread.start()
    source.close()
    thread.join(10)
    assert ended == [None]


def test_a_line_that_is_not_there_is_named():
    with pytest.raises(SourceError, match="'/dev/ttyNONE': cannot be opened"):
        opened("serial", SerialOptions(uri="/dev/ttyNONE"), WINDOWS)


def test_a_serial_line_needs_a_model_of_windows():
    with pytest.raises(ConfigError, match="takes no windows"):
        SerialSource(SerialOptions(uri="x"), SourceContext())


def test_a_sensor_pipeline_runs_from_the_line_to_events(line):
    manifest = make_manifest(
        "sensor",
        inputs=(spec("x", (1, 4, 3)),),
        pre=Pre(resize="none", window=4, hop=2),
        post=Post(decoder="sensor"),
    )
    source = make_source(
        "serial", SerialOptions(uri=line.uri), source_context(manifest, SourceContext().folder)
    )
    line_bytes = b"\n" + b"".join(row(n) for n in range(20))
    threading.Timer(0.05, lambda: line.write(line_bytes)).start()
    document = Loop("test", source, make_predictor(manifest)).run(frames=5)
    assert document["frames"]["processed"] == 5
    assert document["events"] == 1


# -- synthetic


def test_the_same_seed_makes_the_same_frames():
    options = SyntheticOptions(seed=3, frames=5, width=64, height=48)
    one, two = (read_all(opened("synthetic", options)) for _ in range(2))
    assert len(one) == 5
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert (shapes(options, 0) != shapes(options, 9)).any()
    assert (shapes(options, 0) != shapes(SyntheticOptions(seed=4, width=64, height=48), 0)).any()


def test_shapes_stay_in_the_picture_for_ever():
    options = SyntheticOptions(width=40, height=30, shapes=4)
    for seq in (0, 1, 17, 1000, 123_456_789):
        pixels = shapes(options, seq)
        assert (pixels.shape, pixels.dtype) == ((30, 40, 3), np.uint8)
        assert (pixels != 96).any()


def test_windows_of_waves_that_overlap_agree_and_bursts_come_when_they_are_due():
    options = SyntheticOptions(anomaly_every=50)
    whole = waves(options, 2, 0, 200)
    np.testing.assert_array_equal(waves(options, 2, 30, 60), whole[30:90])
    bursts = np.flatnonzero((whole == 3.0).all(axis=1))
    assert bursts.tolist() == [at for at in range(200) if at % 50 >= 38]
    assert np.abs(np.delete(whole, bursts, 0)).max() <= 1.06


def test_a_source_of_windows_follows_the_models_window_and_hop():
    frames = read_all(opened("synthetic", SyntheticOptions(frames=3), WINDOWS))
    assert [frame.data.shape for frame in frames] == [(4, 3)] * 3
    np.testing.assert_array_equal(frames[0].data[2:], frames[1].data[:2])


def test_a_model_says_what_windows_it_wants():
    manifest = make_manifest(
        "sensor", inputs=(spec("x", (1, 100, 6)),), pre=Pre(resize="none", window=100, hop=50, rate_hz=50)
    )
    context = source_context(manifest, SourceContext().folder)
    assert (context.window, context.hop, context.channels, context.rate_hz) == (100, 50, 6, 50)
    assert source_context(make_manifest(), SourceContext().folder).window == 0


def test_a_pacer_that_is_late_starts_anew_and_does_not_hurry():
    pacer = Pacer(100, threading.Event())
    pacer.wait()
    time.sleep(0.1)  # the reader was away
    began = time.monotonic()
    for _ in range(4):
        pacer.wait()
    assert time.monotonic() - began >= 0.025


def test_a_camera_halves_its_resolution_between_two_frames_and_again_after_it_was_opened_again():
    import cv2

    class Sized(FakeCamera):
        def __init__(self, frames):
            super().__init__(frames)
            self.sides = {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0}

        def get(self, side):
            return self.sides[side]

        def set(self, side, px):
            self.sides[side] = px

    devices = [Sized(2), Sized(2)]
    source = camera(devices)
    source.open()
    source.read()
    source.halve(1)
    sizes = []
    for turn in range(3):
        source.read()
        sizes.append(tuple(devices[turn > 0].sides.values()))
        if turn == 1:
            source.halve(0)
    assert sizes == [(320, 240), (320, 240), (640, 480)]
    source.close()


def test_synthetic_images_are_halved_from_the_next_one_on():
    source = opened("synthetic", SyntheticOptions(width=64, height=48))
    shapes_seen = []
    for times in (0, 2, 0):
        source.halve(times)
        shapes_seen.append(source.read().data.shape)
    assert shapes_seen == [(48, 64, 3), (12, 16, 3), (48, 64, 3)]


def test_a_source_of_one_frame_a_minute_hangs_only_after_more_than_a_minute():
    slow = opened("synthetic", SyntheticOptions(realtime=True, fps=1 / 60))
    assert slow.due_s == 70.0
    assert opened("synthetic", SyntheticOptions()).due_s == 10.0


def test_a_camera_by_identity_waits_for_its_own_and_never_takes_another(tmp_path):
    """``/dev/v4l/by-id`` has a link for each camera; only the device behind the named one is opened."""
    own, other = tmp_path / "by-id-own", tmp_path / "by-id-other"
    other.touch()
    own.touch()
    asked = []

    def opener(options):
        asked.append(options.uri)
        if len(asked) == 1:
            own.unlink()  # unplugged, after its first frame
            threading.Timer(0.6, own.touch).start()
        return FakeCamera(1)

    source = CameraSource(CameraOptions(uri=str(own)), SourceContext(), opener)
    source.open()
    assert [source.read().seq for _ in range(2)] == [0, 1]
    assert source.state()["reopened"] == 1
    assert asked == [str(own)] * 2  # while the link was gone, nothing was opened
    own.unlink()
    with pytest.raises(SourceError) as caught:
        source._opened()
    assert caught.value.fault == "NOT_FOUND"
    assert str(other) in caught.value.hint
    source.close()


def test_an_address_in_a_camera_names_the_kind_that_takes_it_and_shows_no_password():
    (problem,) = CameraOptions(uri="rtsp://ann:hunter2@door/1").problems()
    assert 'kind = "rtsp"' in problem
    assert "hunter2" not in problem


def test_a_device_that_is_closed_is_not_called_lost(caplog):
    closing = threading.Event()
    reopener = Reopener("camera", object, 0.0, closing)
    reopener.first()
    closing.set()
    assert reopener.again("the stream came to its end") is None
    assert (reopener.state()["state"], caplog.text) == ("open", "")


def test_whoever_looks_at_a_device_that_is_opened_again_sees_no_half_of_a_change(monkeypatch):
    """The state is looked at before every line that changes it, as another thread might."""
    monkeypatch.setattr(timing, "FIRST_WAIT_S", 0.0)
    attempts = iter(
        [SourceError("no answer", fault="TIMEOUT"), SourceError("no way", fault="NOT_FOUND"), "device"]
    )

    def opener():
        attempt = next(attempts)
        if isinstance(attempt, SourceError):
            raise attempt
        return attempt

    reopener, seen = Reopener("camera", opener, 0.0, threading.Event()), []

    def look(frame, _event, _argument):
        if frame.f_code.co_filename == timing.__file__:
            sys.settrace(None)
            state = (*reopener.state().values(), reopener.is_waiting)
            sys.settrace(look)
            if not seen or seen[-1] != state:
                seen.append(state)
        return look

    sys.settrace(look)
    try:
        assert reopener.again("it froze", "STALLED") == "device"
    finally:
        sys.settrace(None)
    assert seen == [
        ("opening", 0, "", "", False),
        ("lost", 0, "STALLED", "it froze", True),
        ("lost", 0, "TIMEOUT", "no answer", True),
        ("lost", 0, "NOT_FOUND", "no way", True),
        ("open", 1, "NOT_FOUND", "no way", False),
    ]
