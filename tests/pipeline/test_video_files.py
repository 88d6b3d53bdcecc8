"""Video files are shown as they are: fields, ranges, depths, turns, times; or refused with the reason."""

import importlib.util
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.core.errors import SourceError
from edgekit.pipeline.libav import AvFile
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.video import VideoOptions
from edgekit.pipeline.sources.video_file import OpenCvFile

av = pytest.importorskip("av", reason="the extra 'rtsp' is not installed")


def shade(n):
    return 60 + 40 * n


def write_video(path, codec, *, pix_fmt="yuv420p", size=(64, 48), times_ms=None, prepare=lambda _: None):
    """Write four frames, each of one shade, the left half darker."""
    width, height = size
    base = Fraction(1, 1000 if times_ms else 25)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = base
        prepare(stream.codec_context)
        for n in range(4):
            pixels = np.full((height, width, 3), shade(n), np.uint8)
            pixels[:, : width // 2] = 20
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (times_ms[n] if times_ms else n), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def interlaced(path, codec="mpeg2video"):
    def fields(context):
        context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me

    return write_video(path, codec, prepare=fields)


def without_av(monkeypatch):
    """Have PyAV look as if it were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "av" else real(name, *more)
    )


def read_all(path, **options):
    source = make_source("video", VideoOptions(uri=str(path), **options), SourceContext())
    source.open()
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def assert_seen(frames, tolerance=6):
    assert len(frames) == 4
    for n, frame in enumerate(frames):
        width = frame.data.shape[1]
        assert abs(float(frame.data[:, width // 2 + 8 :].mean()) - shade(n)) < tolerance
        assert abs(float(frame.data[:, : width // 2 - 8].mean()) - 20) < tolerance


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_video_is_shown(tmp_path, codec):
    assert_seen(read_all(interlaced(tmp_path / "tv.mkv", codec)))


def test_interlaced_video_is_refused_where_only_opencv_is_there_and_shows_it_black(tmp_path, monkeypatch):
    path = interlaced(tmp_path / "tv.mkv")
    without_av(monkeypatch)
    if tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 13):
        assert_seen(read_all(path))
        return
    used = [np.full(48 * 64 * 3, value, np.uint8) for value in range(64)]
    del used  # what memory holds must not matter
    for _ in range(10):
        with pytest.raises(
            SourceError, match=f"OpenCV {cv2.__version__} shows interlaced video so"
        ) as caught:
            read_all(path)
        assert "edgekit-runtime[rtsp]" in caught.value.hint


@pytest.mark.parametrize(("begins", "ends"), [(0, 200), (90, 90)])
def test_a_progressive_video_that_begins_black_or_stands_still_is_shown_by_opencv_alone(
    tmp_path, monkeypatch, begins, ends
):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for n in range(60):
        writer.write(np.full((48, 64, 3), begins if n < 50 else ends, np.uint8))
    writer.release()
    without_av(monkeypatch)
    assert len(read_all(tmp_path / "v.avi")) == 60


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "size"),
    [
        ("ffv1", "yuv420p10le", (64, 48)),
        ("ffv1", "gray16le", (64, 48)),
        ("ffv1", "yuv444p", (63, 47)),
        ("libx264", "yuv420p", (64, 48)),
        ("libx264", "yuvj420p", (64, 48)),
        ("mjpeg", "yuvj420p", (64, 48)),
    ],
)
@pytest.mark.parametrize("opened", [OpenCvFile, AvFile])
def test_depths_odd_sizes_and_both_ranges_of_brightness_are_right(tmp_path, codec, pix_fmt, size, opened):
    def full(context):
        context.color_range = 2 if pix_fmt.startswith("yuvj") else 1

    video = opened(write_video(tmp_path / "v.mkv", codec, pix_fmt=pix_fmt, size=size, prepare=full))
    for n in range(4):
        pixels, media_s = video.next()
        assert pixels.shape == (size[1], size[0], 3)
        assert pixels.dtype == np.uint8
        assert abs(float(pixels[:, size[0] // 2 + 8 :].mean()) - shade(n)) < 6
        assert media_s == pytest.approx(n / 25, abs=0.002)
    assert video.next() is None
    video.close()


@pytest.mark.parametrize("opened", [OpenCvFile, AvFile])
def test_a_video_is_turned_as_its_display_matrix_says(tmp_path, opened):
    path = write_video(tmp_path / "v.mp4", "mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # Source: ISO 14496-12, 8.3.2: a quarter turn clockwise
    data[at : at + 36] = b"".join(
        value.to_bytes(4, "big", signed=True)
        for value in (0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    )
    path.write_bytes(data)
    video = opened(path)
    pixels, _ = video.next()
    video.close()
    assert pixels.shape == (64, 48, 3)
    assert pixels[:24].mean() < 30 < shade(0) - 10 < pixels[-24:].mean()  # the left half is on top


def test_frames_keep_the_times_that_a_file_of_changing_rate_states(tmp_path):
    times_ms = [0, 40, 340, 360]
    path = write_video(tmp_path / "v.mkv", "ffv1", pix_fmt="yuv420p", times_ms=times_ms)
    assert [round(frame.meta["media_s"] * 1e3) for frame in read_all(path)] == times_ms
    frames = read_all(path, realtime=True)
    spaces_ms = np.diff([frame.captured_ns for frame in frames]) / 1e6
    assert spaces_ms[1] > 250
    assert spaces_ms[[0, 2]].max() < 200


def test_a_video_whose_name_is_not_utf_8_is_opened(tmp_path):
    made = write_video(tmp_path / "v.mkv", "ffv1")
    path = tmp_path / os.fsdecode(b"caf\xe9.mkv")
    made.rename(path)
    assert_seen(read_all(path))
    (video := AvFile(path)).close()
    assert video.fps == 25


def new_threads(path, threads):
    """Return how many threads an open video has started, after it has begun again."""
    source = make_source("video", VideoOptions(uri=str(path), loop=True, threads=threads), SourceContext())
    before = set(Path("/proc/self/task").iterdir())
    source.open()
    for _ in range(6):
        source.read()
    started = set(Path("/proc/self/task").iterdir()) - before
    source.close()
    return len(started)


@pytest.mark.parametrize("is_interlaced", [False, True])
def test_a_video_with_one_thread_is_decoded_on_the_sources_own(tmp_path, is_interlaced):
    write = interlaced if is_interlaced else write_video
    path = write(tmp_path / "v.mkv", "libx264")
    assert new_threads(path, 1) == 0
    assert new_threads(path, 3) >= 3


def test_a_decoder_that_takes_no_number_of_threads_says_so(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mkv", "ffv1")
    monkeypatch.setattr(cv2, "CAP_PROP_N_THREADS", 999)
    with pytest.raises(SourceError, match="with 2 threads") as raised:
        read_all(path, threads=2)
    assert "take 'threads' out" in raised.value.hint
    assert_seen(read_all(path))
