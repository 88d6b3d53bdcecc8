"""Videos and clips: whole after a kill, in a browser, at their own times, within a quota, over nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from sink_results import event, result

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.ports import Frame
from edgekit.pipeline.fragments import Encoder
from edgekit.pipeline.packets import PacketRing, StreamInfo, VideoPacket
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.clips import ClipsOptions
from edgekit.pipeline.sinks.video import VideoOptions

WIDTH, HEIGHT, FPS = 64, 48, 10
SECOND_NS = 1_000_000_000


def image(number, width=WIDTH, height=HEIGHT):
    """A picture whose brightness says its number."""
    return np.full((height, width, 3), 16 + number % 200, np.uint8)


def frame_of(number, *kinds, at_s=None, data=None, **more):
    """The result of a frame of a camera with 10 frames a second."""
    made = result(
        events=[event(kind=kind, id=f"e{number}", **more) for kind in kinds],
        data=image(number) if data is None else data,
        seq=number,
    )
    at_ns = int((number / FPS if at_s is None else at_s) * 1e9)
    made.frame = Frame(made.frame.data, number, at_ns, 1_764_000_000_000 + at_ns // 1_000_000)
    return made


def live(folder, **more):
    return SinkContext("door", folder, is_live=lambda: True, **more)


def decoded(path):
    """The (time in s, brightness) of each picture of a file."""
    with av.open(str(path)) as container:
        return [
            (
                round(float(picture.pts * picture.time_base), 3),
                float(picture.to_ndarray(format="gray").mean()),
            )
            for picture in container.decode(video=0)
        ]


def numbers(path):
    """The numbers of the frames in a file, by their brightness."""
    grey = [brightness for _, brightness in decoded(path)]
    # 16 is black and 235 white in video; a grey of 16 + n comes back as that, less rounding
    return [round(value) - 16 for value in grey]


# -- fragments


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_a_video_that_is_cut_anywhere_plays_up_to_its_last_whole_image(codec, tmp_path):
    encoder = Encoder(codec, WIDTH, HEIGHT)
    fragments = [part for number in range(30) for part in encoder.add(image(number), number / FPS)]
    fragments += encoder.close()
    assert [part.at for part in fragments] == [number * 9000 for number in range(30)]
    assert [number for number, part in enumerate(fragments) if part.is_key] == [0, 20]
    whole, path = encoder.head + b"".join(part.data for part in fragments), tmp_path / "v.mp4"
    ends = [len(encoder.head)]
    for part in fragments:
        ends.append(ends[-1] + len(part.data))
    for cut in random.Random(1).sample(range(ends[1], len(whole)), 25):
        last = max(end for end in ends if end <= cut)
        # a fragment's first eight bytes are written last
        path.write_bytes(whole[:last] + bytes(min(8, cut - last)) + whole[last + 8 : cut])
        assert len(decoded(path)) == sum(end <= cut for end in ends[1:]), cut
    path.write_bytes(whole)
    assert [at for at, _ in decoded(path)] == [number / FPS for number in range(30)]


def test_a_missing_codec_is_an_error_before_the_first_frame(tmp_path, monkeypatch):
    from edgekit.pipeline import fragments

    monkeypatch.setitem(fragments.CODECS, "h264", ("libnonesuch", {}))
    with pytest.raises(ConfigError, match="no encoder libnonesuch"):
        make_sink("video", VideoOptions(path="v.mp4"), live(tmp_path))
    assert not list(tmp_path.iterdir())


# -- the video sink


def test_a_video_has_the_frames_own_times(tmp_path):
    sink = make_sink("video", VideoOptions(path="v.mp4", draw=False), live(tmp_path))
    times = [0.0, 0.1, 0.5, 0.55, 2.0]
    for number, at_s in enumerate(times):
        sink.write(frame_of(number, at_s=at_s))
    sink.close()
    sink.close()
    assert [at for at, _ in decoded(tmp_path / "v.mp4")] == times


def test_a_video_of_a_file_has_the_files_rate_however_fast_it_was_read(tmp_path):
    context = SinkContext("door", tmp_path, source_fps=lambda: 12.5)
    sink = make_sink("video", VideoOptions(path="v.mp4"), context)
    for number in range(5):
        sink.write(frame_of(number, at_s=0.001 * number))
    sink.close()
    assert [at for at, _ in decoded(tmp_path / "v.mp4")] == [0, 0.08, 0.16, 0.24, 0.32]


def test_no_file_is_ever_written_over_not_even_the_source(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"the source")
    for _ in range(2):
        sink = make_sink("video", VideoOptions(path="v.mp4"), live(tmp_path))
        for number in range(3):
            sink.write(frame_of(number))
        sink.close()
    assert (tmp_path / "v.mp4").read_bytes() == b"the source"
    assert [len(decoded(tmp_path / f"v-{number}.mp4")) for number in (2, 3)] == [3, 3]


def test_files_end_by_time_and_the_oldest_go_but_nobody_elses(tmp_path):
    strange = [tmp_path / name for name in ("v-1.mp4", "v-old.mp4", "other.mp4")]
    for path in strange:
        path.write_bytes(b"x" * 50_000)
    noise = np.random.default_rng(1)
    options = VideoOptions(path="v.mp4", draw=False, minutes=0.1, max_mb=0.1)
    sink = make_sink("video", options, live(tmp_path))
    for number in range(400):
        data = noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        sink.write(frame_of(number, data=data))
    sink.close()
    assert all(path.read_bytes() == b"x" * 50_000 for path in strange)
    ours = sorted(set(tmp_path.glob("*.mp4")) - set(strange), key=lambda path: path.stat().st_mtime_ns)
    assert sum(path.stat().st_size for path in ours) < 0.15e6
    shown = [len(decoded(path)) for path in ours]
    assert len(ours) > 1
    assert max(shown) <= 80  # 0.1 minutes, and up to the next keyframe
    assert all(decoded(path)[0][0] == 0 for path in ours)


def test_frames_of_another_size_begin_another_file_and_windows_are_refused(tmp_path):
    sink = make_sink("video", VideoOptions(path="v.mp4"), live(tmp_path))
    for number in range(4):
        sink.write(frame_of(number, data=image(number, 31, 33) if number > 1 else image(number)))
    with pytest.raises(TensorError, match="want images"):
        sink.write(frame_of(5, data=np.zeros((30, 3), np.float32)))
    sink.close()
    assert [len(decoded(tmp_path / name)) for name in ("v.mp4", "v-2.mp4")] == [2, 2]


def test_a_path_that_is_no_mp4_is_a_problem():
    (problem,) = VideoOptions(path="out/video.avi").problems()
    assert problem.startswith("path: want a file name that ends in .mp4")


CHILD = """
import sys, time
from pathlib import Path
import test_recordings as t
from edgekit.core.errors import StorageError
from edgekit.pipeline.sinks import make_sink
what, folder = sys.argv[1], Path(sys.argv[2])
if what == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if what in ("video", "full"):
    sink = make_sink("video", t.VideoOptions(path="v.mp4", draw=False), t.live(folder))
else:
    options = t.ClipsOptions(path=".", before_s=1, after_s=3)
    sink = make_sink("clips", options, t.live(folder))
number = errors = 0
noise = t.np.random.default_rng(1)
while what != "full" or number < 100:
    kinds = ["appeared"] if what == "clips" and number % 50 == 15 else []
    data = noise.integers(0, 255, (48, 64, 3), t.np.uint8) if what == "full" else None
    try:
        sink.write(t.frame_of(number, *kinds, data=data))
    except StorageError:
        errors += 1
    if what != "full":
        print(number, flush=True)
    number += 1
print(errors, flush=True)
"""


def child(what, folder):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kit"), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{CHILD}", what, folder],
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(what, folder, frames):
    """Kill -9 a process that writes, once it has written so many frames; the last frame that it wrote."""
    process = child(what, folder)
    for _ in range(frames):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    last = frames - 1 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    return last


def test_kill_9_costs_a_video_its_last_image_at_most_and_it_plays_in_chromium(tmp_path, player):
    last = killed("video", tmp_path, 60)
    shown = decoded(tmp_path / "v.mp4")
    assert len(shown) >= last - 1  # the last line may be cut, the last image waits for the next
    width, height, length_s, frames = player(tmp_path / "v.mp4")
    assert (width, height) == (WIDTH, HEIGHT)
    assert length_s == pytest.approx(shown[-1][0], abs=0.3)
    assert frames > 0


def test_a_full_disk_leaves_whole_videos_and_is_counted(tmp_path):
    process = child("full", tmp_path)
    out, _ = process.communicate(timeout=60)
    assert int(out) > 0
    files = list(tmp_path.glob("*.mp4"))
    assert len(files) > 1  # it goes on
    assert all(decoded(path) for path in files)


# -- clips


def run_clips(folder, results, context=None, **options):
    keys = {"path": "clips", "before_s": 2.0, "after_s": 3.0, **options}
    sink = make_sink("clips", ClipsOptions(**keys), context or live(folder))
    for entry in results:
        sink.write(entry)
    sink.close()
    return sorted((folder / "clips").glob("*.mp4")) if (folder / "clips").exists() else []


def test_a_clip_has_the_seconds_before_and_after_and_its_event_beside_it(tmp_path):
    results = [frame_of(number, *(["appeared"] if number == 100 else [])) for number in range(200)]
    (clip,) = run_clips(tmp_path, results)
    seen = numbers(clip)
    assert 60 <= seen[0] <= 80  # from a keyframe on, which comes each 2 s
    assert abs(len(seen) - (seen[-1] - seen[0] + 1)) <= 1  # a brightness may be off by one
    assert seen[-1] >= 129
    assert decoded(clip)[0][0] == 0
    (document,) = json.loads(clip.with_suffix(".json").read_text())
    assert (document["id"], document["kind"], document["label"]) == ("e100", "appeared", "car")
    assert clip.name == "20251124T160010Z-appeared-car-e100.mp4"


def test_an_event_in_the_very_first_frame_has_a_clip(tmp_path):
    (clip,) = run_clips(
        tmp_path, [frame_of(number, *(["appeared"] if not number else [])) for number in range(60)]
    )
    assert 25 <= len(decoded(clip)) <= 40
    assert len(json.loads(clip.with_suffix(".json").read_text())) == 1


def test_an_event_in_a_clip_makes_it_longer_up_to_its_limit(tmp_path):
    at = {50, 70, 90, 110}
    results = [frame_of(number, *(["appeared"] if number in at else [])) for number in range(200)]
    clips = run_clips(tmp_path, results, max_s=5.0)
    assert [len(json.loads(clip.with_suffix(".json").read_text())) for clip in clips] == [3, 1]
    assert 98 <= numbers(clips[0])[-1] <= 101


def test_what_only_ends_gets_no_clip_unless_it_is_named(tmp_path):
    results = [frame_of(number, *(["vanished"] if number == 30 else [])) for number in range(60)]
    assert run_clips(tmp_path, results) == []
    assert len(run_clips(tmp_path, results, on=("vanished",))) == 1


def test_the_oldest_clips_go_with_their_documents(tmp_path):
    noise = np.random.default_rng(1)
    results = [
        frame_of(
            number,
            *(["appeared"] if number % 60 == 20 else []),
            data=noise.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8),
        )
        for number in range(300)
    ]
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/mine.mp4").write_bytes(b"x")
    clips = run_clips(tmp_path, results, max_mb=0.2)
    assert (tmp_path / "clips/mine.mp4") in clips
    ours = [clip for clip in clips if clip.name != "mine.mp4"]
    assert 1 <= len(ours) < 5
    assert sorted((tmp_path / "clips").glob("*.json")) == [clip.with_suffix(".json") for clip in ours]


@pytest.mark.parametrize("frames", [17, 30, 44, 66, 90])
def test_a_clip_survives_kill_9_at_any_moment(tmp_path, frames, player):
    last = killed("clips", tmp_path, frames)
    clips = sorted(tmp_path.glob("*.mp4"))
    assert clips
    seen = [numbers(clip) for clip in clips]
    assert all(seen)
    assert 15 in seen[0]  # the event itself
    assert all(clip.with_suffix(".json").exists() or clip is clips[-1] for clip in clips)
    if (last - 15) % 50 < 25:  # a clip was open
        assert seen[-1][-1] >= last - 2
    if frames == 30:
        width, height, _, shown = player(clips[0])
        assert (width, height, shown > 0) == (WIDTH, HEIGHT, True)


# -- a camera's own packets


def camera(ring, count, first=0):
    """A camera's packets, made by libx264; (result, packet) for each frame."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base = Fraction(1, FPS)
    context.options = {"tune": "zerolatency", "g": "10", "sc_threshold": "0", "colorspace": "smpte170m"}
    info, packets = None, []
    for number in range(first, first + count):
        picture = av.VideoFrame.from_ndarray(image(number), format="bgr24")
        picture.pts = number
        for packet in context.encode(picture):
            info = info or StreamInfo(
                "h264", WIDTH, HEIGHT, Fraction(1, FPS), bytes(context.extradata or b"")
            )
            packets.append(
                VideoPacket(
                    bytes(packet), packet.pts, packet.dts, packet.is_keyframe, number * SECOND_NS // FPS, info
                )
            )
    for packet in packets:
        ring.add(packet)
        yield packet


def test_an_event_of_a_picture_that_is_taken_again_has_one_clip(tmp_path):
    def runs(first, *, is_again):
        results = [frame_of(number, *(["appeared"] if number == first else [])) for number in range(first, 8)]
        for entry in results:
            entry.frame.meta["identity"] = str(entry.frame.seq)
        results[0].is_again = is_again
        return run_clips(tmp_path, results, before_s=0.0)

    clips = runs(0, is_again=False)
    assert runs(0, is_again=True) == clips
    assert len(runs(1, is_again=True)) == 2  # what was killed before its clip began


def test_a_cameras_packets_are_written_as_they_came_where_nothing_is_hidden(tmp_path, player):
    ring = PacketRing()
    context = live(tmp_path, packets=ring)
    sink = make_sink("clips", ClipsOptions(path="clips", before_s=2.0, after_s=3.0), context)
    sent = []
    for number, packet in enumerate(camera(ring, 150)):
        sent.append(packet.data)
        # the sinks see red, so that it would show if the clip were encoded from frames
        red = np.full((HEIGHT, WIDTH, 3), (0, 0, 255), np.uint8)
        sink.write(frame_of(number, *(["appeared"] if number == 100 else []), data=red))
    sink.close()
    (clip,) = (tmp_path / "clips").glob("*.mp4")
    with av.open(str(clip)) as container:
        kept = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    seen = numbers(clip)
    assert 70 <= seen[0] <= 80
    assert seen[-1] >= 128
    assert len(kept) == len(seen)
    assert player(clip)[:2] == [WIDTH, HEIGHT]


@pytest.mark.parametrize("more", [{"hides": True}, {}])
def test_where_something_is_hidden_or_drawn_the_frames_are_encoded_and_not_the_packets(tmp_path, more):
    ring = PacketRing()
    options = ClipsOptions(path="clips", before_s=1.0, after_s=1.0, draw=not more)
    sink = make_sink("clips", options, live(tmp_path, packets=ring, **more))
    for number, _ in enumerate(camera(ring, 60)):
        data = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        sink.write(frame_of(number, *(["appeared"] if number == 30 else []), data=data))
    sink.close()
    assert not ring.seconds
    (clip,) = (tmp_path / "clips").glob("*.mp4")
    with av.open(str(clip)) as container:
        corner = [picture.to_ndarray(format="gray")[:8, -8:].mean() for picture in container.decode(video=0)]
    assert all(abs(value - 126) < 6 for value in corner)


def test_a_camera_that_was_connected_again_begins_another_clip(tmp_path):
    ring = PacketRing()
    sink = make_sink(
        "clips", ClipsOptions(path="clips", before_s=1.0, after_s=9.0), live(tmp_path, packets=ring)
    )
    for start in (0, 40):
        for number, _ in enumerate(camera(ring, 40, start), start):
            sink.write(frame_of(number, *(["appeared"] if number % 40 == 20 else [])))
    sink.close()
    clips = sorted((tmp_path / "clips").glob("*.mp4"))
    assert len(clips) == 2
    assert all(decoded(clip) for clip in clips)
