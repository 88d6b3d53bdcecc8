"""A detector that really runs, and recordings of what it finds: white squares on black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from onnx import helper
from onnx_bundles import make_onnx_bundle

SIDE, CELL = 64, 4
WIDTH, HEIGHT, BLOB = 320, 240, 60


def blob_bundle(folder: Path, label: str = "person", **manifest: Any) -> Path:
    """Write the bundle of a detector of bright squares, for pictures of any size; return its folder.

    Each cell's score is its brightness; touching cells are one item.
    """
    cells = SIDE // CELL
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=1),
        helper.make_node("ReduceMean", ["bytes"], ["grey"], axes=[3], keepdims=1),
        helper.make_node("Transpose", ["grey"], ["plane"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["plane"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]
        ),
        helper.make_node("Constant", [], ["white"], value_float=255.0),
        helper.make_node("Constant", [], ["all"], value_float=1.0),
        helper.make_node("Div", ["pooled", "white"], ["bright"]),
        helper.make_node("Sub", ["all", "bright"], ["dark"]),
        helper.make_node("Concat", ["dark", "bright"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["cells"], perm=[0, 2, 3, 1]),
    ]
    image = [1, SIDE, SIDE, 3]
    return make_onnx_bundle(
        folder,
        nodes,
        [("image", "UINT8", image)],
        [("cells", "FP32", [1, cells, cells, 2])],
        {},
        **{
            "model": "blobs",
            "task": "detect",
            "labels": [label],
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": image, "layout": "NHWC"}],
            "outputs": [{"name": "cells", "datatype": "FP32", "shape": [1, cells, cells, 2]}],
            "pre": {"resize": "stretch", "color": "RGB"},
            "post": {"decoder": "fomo", "score_threshold": 0.5},
            **manifest,
        },
    )


def tint_bundle(folder: Path, **manifest: Any) -> Path:
    """Write the bundle of a classifier that says which of red, green and blue a picture has most of."""
    image = [1, 8, 8, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=1),
        helper.make_node("ReduceMean", ["bytes"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["scores"], axis=1),
    ]
    return make_onnx_bundle(
        folder,
        nodes,
        [("image", "UINT8", ["n", *image[1:]])],
        [("scores", "FP32", ["n", 3])],
        {},
        **{
            "model": "tints",
            "task": "classify",
            "labels": ["red", "green", "blue"],
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": image, "layout": "NHWC"}],
            "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3]}],
            "pre": {"resize": "stretch", "color": "RGB"},
            "post": {"decoder": "classify", "score_threshold": 0.5, "top_k": 1},
            "variant": {"batch": "free"},
            **manifest,
        },
    )


WHITE, RED, BLUE = (255, 255, 255), (200, 200, 255), (255, 200, 200)
"""BGR; all of them bright enough for the detector."""


def film(
    path: Path,
    ways: list[list[tuple[float, float] | None]],
    fps: float = 10.0,
    colors: tuple[tuple[int, int, int], ...] = (),
) -> Path:
    """Write a recording of squares, each with its centres in shares of the picture; None: hidden."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (WIDTH, HEIGHT))
    for places in zip(*ways, strict=True):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for number, place in enumerate(places):
            if place is not None:
                x, y, half = round(place[0] * WIDTH), round(place[1] * HEIGHT), BLOB // 2
                color = colors[number] if colors else WHITE
                cv2.rectangle(pixels, (x - half, y - half), (x + half, y + half), color, -1)
        writer.write(pixels)
    writer.release()
    return path
