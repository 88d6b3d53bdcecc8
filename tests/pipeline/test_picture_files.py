"""Pictures are read as they are, whatever their names and depths; what is broken is named and left out."""

import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from deep_folders import deep_folders

from edgekit.core.errors import SourceError, TensorError
from edgekit.pipeline.picture_files import decode_picture, list_pictures, read_picture, readable
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.images import ImagesOptions


def picture(width=12, height=8, shade=128):
    pixels = np.full((height, width, 3), shade, np.uint8)
    pixels[:, : width // 2] = 250 - shade
    return pixels


def encoded(kind=".png", **shape):
    return cv2.imencode(kind, picture(**shape))[1].tobytes()


def bomb(width, height):
    """A PNG whose header states a size, with hardly any data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def turned(jpeg, orientation):
    """The JPEG with an EXIF block that states an orientation."""
    entry = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0) + b"\0" * 4
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def read_all(folder, **options):
    source = make_source("images", ImagesOptions(uri=str(folder), **options), SourceContext())
    source.open()
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return source, frames


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_and_mirroring_of_a_file_are_undone(orientation):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 255  # the upper left of what the sensor saw
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    seen = decode_picture(turned(jpeg, orientation), "x")
    # Source: EXIF 2.32, tag 274: where the stored first row and first column are in the picture
    corner = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    assert seen.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
    row = slice(0, 12) if corner[0] == "t" else slice(-12, None)
    column = slice(0, 12) if corner[1] == "l" else slice(-12, None)
    assert seen[row, column].min() > 200
    assert seen.mean() < 60


@pytest.mark.parametrize("shade", [0, 16, 128, 235, 255])
def test_a_jpegs_whole_range_of_brightness_is_kept(shade):
    jpeg = cv2.imencode(".jpg", np.full((16, 16, 3), shade, np.uint8))[1].tobytes()
    assert abs(int(decode_picture(jpeg, "x").mean()) - shade) <= 1


@pytest.mark.parametrize("kind", [".png", ".tif"])
def test_sixteen_bits_and_grey_become_eight_bits_of_colour(kind):
    deep = np.full((5, 7), 0x8040, np.uint16)  # odd sides, too
    seen = decode_picture(cv2.imencode(kind, deep)[1].tobytes(), "x")
    assert (seen.shape, seen.dtype) == ((5, 7, 3), np.uint8)
    assert set(np.unique(seen)) == {0x80}


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"])
def test_every_kind_of_picture_is_read_and_one_that_is_cut_off_is_refused(kind):
    whole = cv2.imencode(kind, np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))[1].tobytes()
    assert decode_picture(whole, "x").shape == (40, 60, 3)
    for share in (0, 0.02, 0.33, 0.9):
        with pytest.raises(TensorError, match=r"^x: cannot be read: "):
            decode_picture(whole[: int(len(whole) * share)], "x")


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (30_000, 30_000), (0, 5)])
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header(width, height):
    with pytest.raises(TensorError, match=f"{width} x {height} pixels"):
        decode_picture(bomb(width, height), "x")


def test_what_cannot_be_read_is_named_and_counted_and_the_folder_goes_on(tmp_path, caplog):
    """Also at the end, where no later frame shows the gap."""
    contents = [encoded(), bomb(50_000, 50_000), encoded(), encoded(".jpg")[:300], b""]
    for number, data in enumerate(contents):
        (tmp_path / f"{number}.png").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        source, frames = read_all(tmp_path)
    assert [(frame.seq, frame.meta["file"]) for frame in frames] == [(0, "0.png"), (2, "2.png")]
    assert (source.next_seq, source.counts()) == (5, {"unreadable": 3})
    assert all(f"{number}.png: cannot be read" in caplog.text for number in (1, 3, 4))


@pytest.mark.timeout(60)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, caplog):
    """A pipe nobody writes into, a device without an end, a link to itself, a folder."""
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    (tmp_path / "3.png").symlink_to("3.png")
    (tmp_path / "4.png").mkdir()
    (tmp_path / "5.png").write_bytes(encoded())
    (tmp_path / "new\nline\x1b[2J.png").write_bytes(encoded())
    source, frames = read_all(tmp_path)
    assert [frame.meta["file"] for frame in frames] == ["5.png", "new\nline\x1b[2J.png"]
    assert source.counts() == {"unreadable": 3}
    assert all(f"{number}.png: cannot be read: it is no file" in caplog.text for number in (1, 2))
    assert "3.png: cannot be read: Too many levels of symbolic links" in caplog.text


def test_a_file_that_grows_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.pipeline.picture_files.MOST_BYTES", 8)
    with pytest.raises(TensorError, match="larger than"):
        read_picture(Path("/proc/self/status"))  # its stated size is 0


@pytest.mark.parametrize(("depth", "name"), [(1_100, "d"), (24, "d" * 200)])
def test_folders_of_any_depth_are_read_and_what_has_too_long_a_path_is_named(tmp_path, depth, name, caplog):
    (tmp_path / "z.png").write_bytes(encoded())
    is_too_long = len(name) > 1
    with deep_folders(tmp_path, depth, name, encoded()):
        assert len(list_pictures(tmp_path)) == (1 if is_too_long else 2)
    assert ("cannot be read and is left out: File name too long" in caplog.text) == is_too_long


def test_a_name_that_is_not_utf_8_is_read_and_can_be_written_down(tmp_path):
    (tmp_path / os.fsdecode(b"lat\xe4.png")).write_bytes(encoded())
    _, (frame,) = read_all(tmp_path)
    assert frame.meta["file"] == "lat\\xe4.png"
    frame.meta["file"].encode()
    with pytest.raises(SourceError, match=r"lat\\\\xe5"):
        read_all(tmp_path / os.fsdecode(b"lat\xe5.png"))


def test_class_folders_are_read_class_by_class_in_the_order_of_their_numbers(tmp_path):
    for name in ("dog/10.png", "dog/9.png", "cat/1.png", ".hidden/1.png", "cat/.1.png", "cat/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    assert list_pictures(tmp_path) == ["cat/1.png", "dog/9.png", "dog/10.png"]
    _, frames = read_all(tmp_path)
    assert [frame.meta["file"] for frame in frames] == ["cat/1.png", "dog/9.png", "dog/10.png"]


def test_a_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TensorError, match=r"1\.png: cannot be read: No such file"):
        read_picture(tmp_path / "1.png")
    assert readable("ä.png") == "ä.png"
