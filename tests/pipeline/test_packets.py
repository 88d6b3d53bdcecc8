"""A camera's packets are kept in bounds, and become a clip without decoding or encoding."""

from fractions import Fraction

import av
import numpy as np
import pytest

from edgekit.core.errors import StorageError
from edgekit.pipeline.libav import write_clip
from edgekit.pipeline.packets import PacketRing, StreamInfo, VideoPacket

FPS = 25


def info():
    return StreamInfo("h264", 64, 48, Fraction(1, FPS))


def packet(number, stream, size=100, every=10):
    captured_ns = int(number * 1e9 / FPS)
    return VideoPacket(bytes(size), number, number, number % every == 0, captured_ns, stream)


def filled(count, seconds=1.0, **options):
    ring, stream = PacketRing(**options), info()
    ring.keep(seconds)
    for number in range(count):
        ring.add(packet(number, stream))
    return ring


def numbers(runs):
    return [[packet.pts for packet in run] for run in runs]


def test_a_ring_keeps_its_seconds_from_a_keyframe_on():
    for count in range(26, 120):
        kept = filled(count).take(0, 1e12)[0]
        assert kept[0].is_keyframe
        assert 1.0 <= (kept[-1].captured_ns - kept[0].captured_ns) / 1e9 < 1.0 + 10 / FPS
        assert kept[-1].pts == count - 1


def test_a_clip_begins_at_the_keyframe_before_its_first_picture():
    ring = filled(60)
    assert numbers(ring.take(1.5e9, 2e9)) == [list(range(30, 51))]  # picture 37 needs those from 30 on
    assert numbers(ring.take(0, 1.6e9)) == [list(range(30, 41))]
    assert ring.take(9e9, 10e9) == ring.take(0, 0.5e9) == ()


def test_a_ring_that_nobody_asked_to_keep_keeps_nothing():
    ring = PacketRing()
    ring.add(packet(0, info()))
    assert ring.take(0, 1e12) == ()
    ring.keep(2)
    ring.keep(1)
    assert ring.seconds == 2


@pytest.mark.parametrize("max_bytes", [50, 350, 1000, 2500])
def test_the_limit_of_bytes_holds_and_what_it_cost_is_counted(max_bytes):
    ring = filled(60, seconds=100, max_bytes=max_bytes)
    kept = [packet for run in ring.take(0, 1e12) for packet in run]
    assert sum(len(packet.data) for packet in kept) <= max_bytes
    assert ring.dropped > 0
    assert not kept or kept[0].is_keyframe


def test_a_new_connection_is_a_run_of_its_own_and_begins_with_a_keyframe():
    ring, old, new = filled(15, seconds=10), info(), info()
    assert numbers(ring.take(0, 1e12)) == [list(range(15))]
    for number in (15, 16):
        ring.add(packet(number, old))  # of a stream without a keyframe yet
    for number in range(20, 23):
        ring.add(packet(number, new))
    assert numbers(ring.take(0, 1e12)) == [list(range(15)), [20, 21, 22]]


def coded(count):
    """Packets of a picture that grows lighter, as an encoder makes them."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, FPS), Fraction(FPS), 10
    encoder.options = {"tune": "zerolatency", "preset": "ultrafast"}
    stream = info()
    for number in range(count):
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 4, np.uint8), format="bgr24")
        picture.pts = number
        for made in encoder.encode(picture):
            at_ns = int(made.pts * 1e9 / FPS)
            yield VideoPacket(bytes(made), made.pts, made.dts, made.is_keyframe, at_ns, stream)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_clip_has_every_picture_of_its_time_and_begins_at_zero(tmp_path, name):
    ring = PacketRing()
    ring.keep(1)
    for made in coded(60):
        ring.add(made)
    (run,) = ring.take(1.5e9, 2e9)
    write_clip(tmp_path / name, run)
    with av.open(str(tmp_path / name)) as clip:
        pictures = list(clip.decode(video=0))
    greys = [picture.to_ndarray(format="bgr24").mean() for picture in pictures]
    np.testing.assert_allclose(greys, [number * 4 for number in range(30, 51)], atol=4)
    np.testing.assert_allclose([picture.time for picture in pictures], np.arange(21) / FPS, atol=0.002)


def test_a_clip_that_cannot_be_written_is_an_error_of_storage(tmp_path):
    run = list(coded(3))
    with pytest.raises(StorageError, match="cannot be written"):
        write_clip(tmp_path / "no" / "folder.mp4", run)
    with pytest.raises(StorageError, match="cannot be written"):
        write_clip(tmp_path / "clip.wav", run)
