"""What decoding a YOLOv8 head of 8400 anchors and 80 classes costs, as a share of YOLOv8n's inference.

Both are processor time of one core, taken by turns. The head is that of pictures: a few things, each seen by
some twenty anchors, and a floor of weak scores. The items must be those that OpenCV's ``NMSBoxes`` keeps
of the same candidates, class by class. ``--data`` takes a folder with ``yolov8/yolov8n_int8_eron.tflite``
(float in and out) and pictures beside it (``detection/coco_train128/images``): its own outputs are decoded
then. Without it the head is made, and a matrix product of YOLOv8n's 4.35 billion multiply-adds stands in for
the net: no net of that size takes less.

    python benchmarks/decoders.py --json [--data WEIGHTS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _report import finish, parser

from edgekit.backends import open_backend
from edgekit.core.spec import Post, Variant
from edgekit.pipeline.decoders import Decoder, Outcome, Setup, make_decoder
from edgekit.pipeline.pre import resize_image

_ANCHORS, _CLASSES, _SIDE, _IOU = 8400, 80, 640, 0.45
_BARS = {0.25: 0.15, 0.01: 0.40}
"""Confidence and the share of the inference that decoding may take."""
_FILE, _PICTURES = "yolov8/yolov8n_int8_eron.tflite", "detection/coco_train128/images"
Head = np.ndarray[Any, np.dtype[np.float32]]


def made_heads(count: int) -> list[Head]:
    """Return heads [1, 84, 8400] as YOLOv8n gives them, by a fixed seed."""
    rng = np.random.default_rng(7)
    heads = []
    for _ in range(count):
        head = np.zeros((1, 4 + _CLASSES, _ANCHORS), np.float32)
        head[0, :2] = rng.uniform(0, _SIDE, (2, _ANCHORS))
        head[0, 2:4] = rng.uniform(10, 200, (2, _ANCHORS))
        head[0, 4:] = rng.exponential(0.0005, (_CLASSES, _ANCHORS))
        for _ in range(8):
            seen, where = rng.choice(_ANCHORS, 20, replace=False), rng.uniform(100, 500, (2, 1))
            head[0, :2, seen] = (where + rng.normal(0, 3, (2, 20))).T
            head[0, 2:4, seen] = rng.normal(120, 5, (20, 2))
            head[0, 4 + rng.integers(_CLASSES), seen] = rng.uniform(0.02, 0.95, 20)
        heads.append(head)
    return heads


def stand_in() -> Callable[[], object]:
    """Return a matrix product of as many multiply-adds as YOLOv8n at 640 has."""
    left, right = np.ones((1088, 2000), np.float32), np.ones((2000, 2000), np.float32)
    return lambda: left @ right


def real_net(folder: Path, count: int) -> tuple[list[Head], Callable[[], object]]:
    """Return YOLOv8n's heads of pictures, in pixels, and its inference on one thread."""
    backend = open_backend(folder / _FILE, Variant(id="yolov8n", backend="litert"), {"threads": 1})
    name, heads = backend.inputs[0].name, []
    square = np.empty((_SIDE, _SIDE, 3), np.uint8)
    for path in sorted((folder.parent / _PICTURES).glob("*.jpg"))[:count]:
        resize_image(np.asarray(cv2.imread(str(path))), "letterbox", square)
        backend.view(name)[...] = square[None, :, :, ::-1].astype(np.float32) / 255
        head = np.array(backend.run()[backend.outputs[0].name], np.float32)
        head[:, :4] *= _SIDE
        heads.append(head)
    return heads, backend.run


def decoder(confidence: float, *, is_sabotaged: bool) -> Decoder:
    """Return edgekit's decoder; a sabotaged one suppresses nothing and works ten times."""
    options = {"layout": "columns", "nms": "none" if is_sabotaged else "class"}
    post = Post(decoder="yolo", score_threshold=confidence, iou_threshold=_IOU, options=options)
    shapes = {"predictions": (1, 4 + _CLASSES, _ANCHORS)}
    decode = make_decoder(Setup(post, (), shapes, (_SIDE, _SIDE)))
    if not is_sabotaged:
        return decode
    return lambda outcome: [decode(outcome) for _ in range(10)][-1]


def by_opencv(head: Head, confidence: float) -> list[tuple[int, float]]:
    """Return (class, score) of what OpenCV's suppression keeps, best first, at most 300."""
    scores = head[0, 4:].max(axis=0)
    found = np.flatnonzero(scores >= confidence)
    classes = head[0, 4:, found].argmax(axis=1)
    boxes = head[0, :4, found].astype(np.float64)
    boxes[:, :2] += classes[:, None] * 10_000 - boxes[:, 2:] / 2  # far apart: no class suppresses another
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores[found].tolist(), confidence, _IOU)
    chosen = [(int(classes[i]), float(scores[found][i])) for i in np.asarray(kept, int).reshape(-1)]
    return sorted(chosen, key=lambda pair: -pair[1])[:300]


def spent_ms(call: Callable[[], object]) -> float:
    """Return the processor time of a call, over all threads, in milliseconds."""
    began = time.process_time_ns()
    call()
    return (time.process_time_ns() - began) / 1e6


def measure(
    heads: list[Head], net: Callable[[], object], confidence: float, rounds: int, *, is_sabotaged: bool
) -> dict[str, Any]:
    """Return the times by turns, and on how many heads the items differ from OpenCV's."""
    decode = decoder(confidence, is_sabotaged=is_sabotaged)
    ours: list[float] = []
    opencv: list[float] = []
    nets: list[float] = []
    differ = items = 0
    for number in range(rounds):
        head = heads[number % len(heads)]
        outcome = Outcome({"predictions": head})
        nets.append(spent_ms(net))
        ours.append(spent_ms(lambda outcome=outcome: decode(outcome)))  # type: ignore[misc]
        opencv.append(spent_ms(lambda head=head: by_opencv(head, confidence)))  # type: ignore[misc]
        if number < len(heads):
            found, wanted = decode(outcome), by_opencv(head, confidence)
            items += len(found)
            # a pair whose overlap is the limit to the last bit may fall on either side
            same = len(
                {(i.index, round(i.score or 0, 5)) for i in found} ^ {(c, round(s, 5)) for c, s in wanted}
            )
            differ += same > max(2, len(wanted) // 50)
    net_ms, our_ms = statistics.median(nets), statistics.median(ours)
    return {
        "confidence": confidence,
        "net_ms": round(net_ms, 2),
        "decode_ms": round(our_ms, 2),
        "opencv_ms": round(statistics.median(opencv), 2),
        "ratio": round(our_ms / net_ms, 4),
        "items": items,
        "heads_that_differ": differ,
    }


def main() -> int:
    """Measure both confidences; print the larger share of its bar."""
    flags = parser(__doc__, full="200 rounds", sabotage="no suppression, and ten times the work")
    flags.add_argument("--data", type=Path, help="folder with YOLOv8n's file")
    options = flags.parse_args()
    rounds = 200 if options.full else 40
    heads, net = real_net(options.data, 8) if options.data else (made_heads(8), stand_in())
    rows = [measure(heads, net, c, rounds, is_sabotaged=options.sabotage) for c in _BARS]
    worst = max(row["ratio"] / _BARS[row["confidence"]] for row in rows)
    holds = worst < 1 and not any(row["heads_that_differ"] for row in rows)
    detail = {"net": _FILE if options.data else "a matrix product that stands in", "rows": rows}
    claim = "decoding 8400 anchors x 80 classes, of what it may take of YOLOv8n's inference"
    return finish(claim, round(worst, 3), "of the bar", 1.0, holds, detail, options.json)


if __name__ == "__main__":
    sys.exit(main())
