"""Videos, 1280 x 720 in MPEG-4, that are made here: flat boxes, and what a camera's picture is like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.pipeline.sources.synthetic import SyntheticOptions, shapes

WIDE, HIGH, FPS = 1280, 720, 25.0
BOXES = SyntheticOptions(width=WIDE, height=HIGH, shapes=6)
MARGIN_PX = 160
NOISE_LEVELS = 4.0
"""Standard deviation of a sensor's noise, of 256; the made video has 8 Mbit/s then, as a good camera's."""
NOISES = 8


def flat_video(path: Path, frames: int) -> Path:
    """Write moving boxes of one colour each on a background of one colour; decodes in half the time."""
    return written(path, (shapes(BOXES, seq) for seq in range(frames)))


def camera_video(path: Path, frames: int) -> Path:
    """Write the same boxes before a texture that moves as under a camera that sways, with sensor noise."""
    return written(path, camera_frames(frames))


def camera_frames(frames: int) -> Iterator[NDArray[np.uint8]]:
    """Return the pictures of ``camera_video``."""
    rng = np.random.default_rng(0)
    ground = texture(rng, HIGH + 2 * MARGIN_PX, WIDE + 2 * MARGIN_PX)
    noises = [np.int16(rng.normal(0, NOISE_LEVELS, (HIGH, WIDE, 3))) for _ in range(NOISES)]
    for seq in range(frames):
        left = round(MARGIN_PX * (1 + 0.9 * np.sin(seq / 40)))
        top = round(MARGIN_PX * (1 + 0.9 * np.cos(seq / 30)))
        boxes = shapes(BOXES, seq)
        is_ground = (boxes == boxes[0, 0]).all(axis=2, keepdims=True)
        pixels = np.where(is_ground, ground[top : top + HIGH, left : left + WIDE], boxes)
        yield np.uint8(np.clip(pixels + noises[seq % NOISES], 0, 255))


def texture(rng: np.random.Generator, high: int, wide: int) -> NDArray[np.uint8]:
    """Return a picture with detail of several sizes."""
    sum_of = np.full((high, wide, 3), 110, np.float32)
    for step_px in (4, 16, 64):
        coarse = np.float32(rng.normal(0, 8 * step_px**0.5, (high // step_px + 2, wide // step_px + 2, 3)))
        sum_of += cv2.resize(coarse, (wide, high), interpolation=cv2.INTER_CUBIC)
    return np.uint8(np.clip(sum_of, 0, 255))


def written(path: Path, frames: Iterator[Any]) -> Path:
    """Write a video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDE, HIGH))
    for pixels in frames:
        writer.write(pixels)
    writer.release()
    return path
