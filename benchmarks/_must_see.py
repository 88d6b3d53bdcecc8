"""Judges what a model sees against an index of weights: the checks of every task."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.pipeline.masks import cells_of

Check = dict[str, Any]


def picture(data: Path, what: Any, crop: Any = None, change: str = "") -> np.ndarray:
    """Return an input of the index as BGR pixels."""
    if isinstance(what, dict) and "made" in what:
        width, height = what["size"]
        pixels = np.full((height, width, 3), 127, np.uint8)
    elif isinstance(what, dict):
        import skimage.data

        pixels = np.ascontiguousarray(getattr(skimage.data, what["name"])()[:, :, ::-1])
    else:
        pixels = cv2.imread(str(data / what))
    if crop:
        left, top, right, bottom = crop
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    if change == "flip":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    elif change.startswith("dim"):
        pixels = np.asarray(np.rint(pixels * float(change.split()[1])), np.uint8)
    return pixels


def same_label(first: str, second: str) -> bool:
    """Return whether two labels are one: blank and underscore, upper and lower case are."""
    return first.replace("_", " ").lower() == second.replace("_", " ").lower()


def iou(first: Any, second: Any) -> float:
    """Return the intersection over union of two boxes."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    both = max(wide, 0) * max(high, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return both / (area - both) if area > both else 0.0


def detect(model: Any, check: Check, data: Path) -> list[str]:
    """Check boxes, and their points and masks where the check has them."""
    items = model.predict(picture(data, check["input"], check.get("crop"))).items
    problems, used = [], set()
    judged = check.get("labels_judged", True)
    for wanted in check["items"]:
        close = [
            n
            for n, item in enumerate(items)
            if n not in used
            and item.box is not None
            and (not judged or same_label(item.label, wanted["label"]))
            and _near(item.box, wanted, check)
        ]
        best = max(close, key=lambda n: iou(items[n].box, wanted["box"]), default=None)
        if best is None:
            if not wanted.get("optional"):
                problems.append(f"no {wanted['label']} {wanted['score']} at {wanted['box']}")
            continue
        used.add(best)
        tolerance = wanted.get("score_tol", check["score_tol"])
        if abs(items[best].score - wanted["score"]) > tolerance + 1e-6 and not wanted.get("optional"):
            problems.append(f"{wanted['label']}: score {items[best].score:.3f} for {wanted['score']}")
        problems += _points(items[best], wanted, check) + _masks(items[best], wanted, check, data)
    for n, item in enumerate(items):
        doubled = any(
            same_label(item.label, w["label"]) and iou(item.box, w["box"]) >= 0.45 for w in check["items"]
        )
        if n not in used and item.score >= check["extras_below"] and not doubled:
            problems.append(f"extra {item.label} {item.score:.3f} at {[round(v) for v in item.box]}")
    return problems


def _near(box: Any, wanted: Check, check: Check) -> bool:
    edges = max(abs(a - b) for a, b in zip(box, wanted["box"], strict=True))
    return edges <= check["edge_px"] or iou(box, wanted["box"]) >= wanted.get("iou_min", check["iou_min"])


def _points(item: Any, wanted: Check, check: Check) -> list[str]:
    if "points" not in wanted or (check.get("points_optional") and not item.points):
        return []
    far = [
        n
        for n, (point, right) in enumerate(zip(item.points, wanted["points"], strict=False))
        if (len(right) < 3 or right[2] >= check.get("point_visible", 0.5))
        and np.hypot(point[0] - right[0], point[1] - right[1]) > check["point_tol_px"]
    ]
    short = len(item.points) < len(wanted["points"])
    return [f"points {far} are off" for _ in far[:1]] + ["points are missing" for _ in range(short)]


def _masks(item: Any, wanted: Check, check: Check, data: Path) -> list[str]:
    if "mask" not in wanted:
        return []
    right = cv2.imread(str(data / wanted["mask"]), cv2.IMREAD_GRAYSCALE) > 127
    seen = painted(item.mask, right.shape) if item.mask else np.zeros_like(right)
    share = float((seen & right).sum() / max((seen | right).sum(), 1))
    return [] if share >= check["mask_iou_min"] else [f"mask of {wanted['label']}: IoU {share:.2f}"]


def painted(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask at the picture's size."""
    cells = cells_of(mask).astype(np.uint8)
    left, top, right, bottom = (round(edge) for edge in mask.area)
    whole = np.zeros(shape, bool)
    scaled = cv2.resize(cells, (max(right - left, 1), max(bottom - top, 1)), interpolation=cv2.INTER_NEAREST)
    part = whole[top:bottom, left:right]
    part |= scaled[: part.shape[0], : part.shape[1]].astype(bool)
    return whole


def points(model: Any, check: Check, data: Path) -> list[str]:
    """Check centroids."""
    items = model.predict(picture(data, check["input"])).items
    centres = [(item, item.points[0] if item.points else _centre(item.box)) for item in items]
    problems = []
    for wanted in check["items"]:
        near = [
            item
            for item, (x, y) in centres
            if same_label(item.label, wanted["label"])
            and np.hypot(x - wanted["point"][0], y - wanted["point"][1]) <= check["point_tol_px"]
        ]
        if not any(
            abs(i.score - wanted["score"]) <= wanted.get("score_tol", check["score_tol"]) for i in near
        ):
            problems.append(f"no {wanted['label']} {wanted['score']} at {wanted['point']}")
    for item, (x, y) in centres:
        listed = any(
            np.hypot(x - w["point"][0], y - w["point"][1]) <= check["point_tol_px"] for w in check["items"]
        )
        if item.score >= check["extras_below"] and not listed:
            problems.append(f"extra {item.label} {item.score:.3f} at {x:.0f}, {y:.0f}")
    return problems


def _centre(box: Any) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def segment(model: Any, check: Check, data: Path) -> list[str]:
    """Check one foreground."""
    pixels = picture(data, check["input"])
    right = cv2.imread(str(data / check["mask"]), cv2.IMREAD_GRAYSCALE) > 127
    items = [i for i in model.predict(pixels).items if i.mask and same_label(i.label, check["label"])]
    seen = np.zeros(pixels.shape[:2], bool)
    for item in items:
        seen |= painted(item.mask, pixels.shape[:2])
    union = float((seen | right).sum())
    share = float((seen & right).sum()) / union if union else 1.0
    off = abs(float(seen.mean()) - check["foreground"])
    problems = [f"IoU {share:.3f}"] if share < check["iou_min"] and right.any() else []
    return problems + ([f"foreground {seen.mean():.3f}"] if off > check["foreground_tol"] else [])


def classify(model: Any, check: Check, data: Path) -> list[str]:
    """Check the first label."""
    best = model.predict(picture(data, check["input"], check.get("crop"))).best
    if best is None or not same_label(best.label, check["label"]):
        return [f"{best.label if best else 'nothing'} for {check['label']}"]
    return [] if abs(best.score - check["score"]) <= check["score_tol"] else [f"score {best.score:.3f}"]


def depth(model: Any, check: Check, data: Path) -> list[str]:
    """Check values at points, and their order."""
    pixels = picture(data, check["input"])
    field = model.predict(pixels).tensors["depth"]
    field = cv2.resize(field, (pixels.shape[1], pixels.shape[0]))
    seen = {
        name: float(np.median(field[y - 4 : y + 5, x - 4 : x + 5]))
        for name, (x, y) in check["points"].items()
    }
    problems = [
        f"{name} {seen[name]:.2f} for {value}"
        for name, value in check["values"].items()
        if abs(seen[name] - value) > check["value_tol"]
    ]
    order = sorted(seen, key=lambda name: seen[name])
    return problems + ([f"order {order}"] if order != check["order"] else [])


def embed(model: Any, check: Check, data: Path) -> list[str]:
    """Check cosines of pairs."""

    def vector(side: Check) -> np.ndarray:
        pixels = picture(data, side["input"], side.get("crop"), side.get("change", ""))
        return np.array(model.predict(pixels).best.vector, np.float64)

    problems, same, different = [], [], []
    for pair in check["pairs"]:
        a, b = vector(pair["a"]), vector(pair["b"])
        if len(a) != check["length"]:
            return [f"{len(a)} numbers for {check['length']}"]
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        (same if pair["same"] else different).append(cosine)
        tolerance = pair.get("cosine_tol", check.get("cosine_tol", 0.05))
        if abs(cosine - pair["cosine"]) > tolerance:
            problems.append(f"cosine {cosine:.3f} for {pair['cosine']}")
    if same and different and min(same) <= max(different):
        problems.append("a different pair is closer than a same one")
    return problems


def text(model: Any, check: Check, data: Path) -> list[str]:
    """Check a read text."""
    best = model.predict(picture(data, check["input"], check.get("crop"))).best
    read = best.text if best else ""
    wrong = edits(read, check["text"]) > check.get("edits", 0)
    return [f"{read!r} for {check['text']!r}"] if wrong else []


def edits(first: str, second: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def audio(model: Any, check: Check, data: Path) -> list[str]:
    """Check the mean and largest probability over the windows of a recording."""
    with wave.open(str(data / check["input"])) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    size = model.manifest.pre.window
    scores = [
        next((i.value if i.value is not None else i.score for i in model.predict(part[:, None]).items), 0.0)
        for part in samples[: len(samples) // size * size].reshape(-1, size)
    ]
    mean, most = float(np.mean(scores)), float(np.max(scores))
    problems = [f"mean {mean:.3f}"] if abs(mean - check["mean"]) > check["mean_tol"] else []
    return problems + ([f"most {most:.3f}"] if abs(most - check["most"]) > check["most_tol"] else [])


def tabular(model: Any, check: Check, _data: Path) -> list[str]:
    """Check labels and probabilities of rows."""
    problems = []
    for row, label, probabilities in zip(check["rows"], check["labels"], check["probabilities"], strict=True):
        items = model.predict(np.float32([row])).items
        if not items or items[0].label != str(label):
            problems.append(f"{items[0].label if items else 'nothing'} for {label}")
        seen = {item.index: item.score for item in items}
        if any(abs(seen.get(n, 0.0) - p) > 1e-3 for n, p in enumerate(probabilities) if n in seen):
            problems.append(f"probabilities {seen}")
    return problems


CHECKS: dict[str, Callable[[Any, Check, Path], list[str]]] = {
    "detect": detect,
    "pose": detect,
    "instances": detect,
    "points": points,
    "segment": segment,
    "classify": classify,
    "depth": depth,
    "embed": embed,
    "text": text,
    "audio": audio,
    "tabular": tabular,
}
