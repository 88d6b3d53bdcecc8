"""Sizes are read from an image's header, and a hostile header leads nowhere."""

import random
import struct
import time

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.base.picture_header import check_image, image_size
from edgekit.core.errors import TensorError


def encoded(kind, width=37, height=21, *options):
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.imencode(kind, pixels, list(options))[1].tobytes()


@pytest.mark.parametrize("progressive", [0, 1])
def test_the_size_is_what_the_encoder_wrote(progressive):
    assert image_size(encoded(".png")) == (37, 21)
    assert image_size(encoded(".jpg", 37, 21, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)) == (37, 21)


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60_000, 60_000) + b"\x08\x02\0\0\0"
    with pytest.raises(TensorError, match="60000 x 60000"):
        check_image(bomb, 40_000_000)
    with pytest.raises(TensorError, match="0 x 0"):
        check_image(bomb.replace(struct.pack(">II", 60_000, 60_000), bytes(8)), 40_000_000)


@given(
    data=st.binary(max_size=60),
    head=st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n"]),
)
def test_no_bytes_raise_anything_but_a_tensor_error(data, head):
    try:
        image_size(head + data)
    except TensorError:
        pass


def two_sizes(jpeg):
    """A JPEG of 30,000 x 30,000 for libjpeg, which skips ``FF 00``; behind that is a smaller one."""
    at = jpeg.index(b"\xff\xc0")
    frame, head, rest = jpeg[at : at + 19], jpeg[2:at], jpeg[at + 19 :]
    large = frame[:5] + struct.pack(">HH", 30_000, 30_000) + frame[9:]
    comment = b"\xff\xfe" + struct.pack(">H", 6 + len(frame)) + b"text" + frame
    return jpeg[:2] + b"\xff\0" + struct.pack(">H", 10 + len(large)) + large + comment + head + rest


def tiff(*sides, order="<", stated=None):
    """A TIFF's header with such sides: (tag, type, count, value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    fields = [
        struct.pack(order + "HHI", *side[:3])
        + struct.pack(order + ("HH" if side[1] == 3 else "I"), *(side[3:] + ((0,) if side[1] == 3 else ())))
        for side in sides
    ]
    return head + struct.pack(order + "H", stated or len(sides)) + b"".join(fields) + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiffs_sides_are_short_or_long_in_either_order_of_bytes(order):
    assert image_size(tiff((256, 3, 1, 40), (257, 4, 1, 30), order=order)) == (40, 30)


@pytest.mark.parametrize(
    "data",
    [
        two_sizes(encoded(".jpg")),
        tiff((256, 4, 1, 30_000), (256, 4, 1, 8), (257, 4, 1, 30_000), (257, 4, 1, 8)),  # libtiff: the first
        tiff((256, 16, 1, 200), (257, 16, 1, 200)),  # 64 bits: a place in the file
        tiff((256, 4, 2, 200), (257, 4, 1, 200)),
        tiff((256, 1, 1, 8), (257, 1, 1, 8)),
        tiff((256, 4, 1, 8), (257, 4, 1, 8), stated=5_000),
        b"P6\n3# 21\n10\n255\n",  # OpenCV takes the mark for the end of the number
        b"P6 #\r30000 30000\n8 8 255\n",
    ],
    ids=["jpeg", "twice", "64 bits", "two", "bytes", "tags", "comment", "line"],
)
def test_a_header_that_has_one_size_for_us_and_may_have_another_for_a_decoder_is_refused(data):
    with pytest.raises(TensorError, match="damaged|30000 x 30000"):
        check_image(data, 1 << 27)


def test_what_a_decoder_makes_of_a_damaged_file_has_the_size_that_its_header_was_read_with():
    """Ten thousand files with some bytes of the header changed, put in, taken out and repeated."""
    kinds = (".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm")
    rng, wholes, compared = random.Random(5), [encoded(kind) for kind in kinds], 0
    for _ in range(10_000):
        data = bytearray(rng.choice(wholes))
        at = rng.randrange(max(0, len(data) - 180), len(data)) if data[:2] == b"II" else rng.randrange(700)
        for _ in range(rng.randint(1, 3)):
            near = min(len(data), max(0, at + rng.randint(-8, 8)))
            new = [
                rng.choice((0, 1, 3, 4, 10, 13, 32, 35, 0xC0, 0xDA, 0xFF)) for _ in range(rng.randint(0, 3))
            ]
            data[near : near + rng.randint(0, 3)] = new
        try:
            check_image(bytes(data), 1 << 20)
        except TensorError:
            continue
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            continue
        if pixels is not None:
            compared += 1
            assert sorted(pixels.shape[:2]) == sorted(image_size(bytes(data))), bytes(data)
    assert compared > 1_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "data",
    [
        b"P6" + b" " * 5_000 + b"x",
        b"P6" + b"\n" * (64 << 20),
        b"\xff\xd8" + b"\xff" * (64 << 20),
        b"\xff\xd8" + b"\xff\xe0\0\2" * (32 << 20),
    ],
    ids=["blanks", "lines", "padding", "segments"],
)
def test_a_header_without_an_end_takes_no_time(data):
    """It did: for ever, or a second for each 10 MB."""
    began_s = time.process_time()
    with pytest.raises(TensorError, match="no picture"):
        image_size(data)
    assert time.process_time() - began_s < 3


def test_a_jpeg_of_many_scans_is_refused_and_a_progressive_one_of_an_encoder_is_not():
    """55,000 scans fit into a megabyte, and each one is a pass over all pixels."""
    jpeg = encoded(".jpg", 37, 21, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    check_image(jpeg, 1_000)
    with pytest.raises(TensorError, match="JPEG of 1010 scans, at most 128"):
        check_image(jpeg + b"\xff\xda\0\2" * 1_000, 1_000)
    check_image(encoded(".jpg") + b"\xff\xda\0\2" * 1_000, 1_000)  # not read: its only scan is complete
    at = (alone := encoded(".jpg")).index(b"\xff\xda")
    with pytest.raises(TensorError, match="JPEG of 1001 scans"):  # the first of three components
        check_image(alone[: at + 4] + b"\1" + alone[at + 5 :] + b"\xff\xda\0\2" * 1_000, 1_000)


@given(at=st.integers(0, 400))
def test_a_cut_image_is_refused_or_has_its_size(at):
    whole = encoded(".jpg")
    try:
        assert image_size(whole[:at]) == (37, 21)
    except TensorError:
        pass
