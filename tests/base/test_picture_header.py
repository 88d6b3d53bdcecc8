"""Sizes are read from an image's header, and a hostile header leads nowhere."""

import struct

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


@given(at=st.integers(0, 400))
def test_a_cut_image_is_refused_or_has_its_size(at):
    whole = encoded(".jpg")
    try:
        assert image_size(whole[:at]) == (37, 21)
    except TensorError:
        pass
