"""Sweeps over files that users bring: another name, no metadata, one picture, each runtime."""

from __future__ import annotations

import shutil
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _must_see import picture

import edgekit
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Manifest, Prediction
from edgekit.importer.importing import import_model
from edgekit_optimize.metrics.boxes import judge

Row = dict[str, Any]
_SCORE, _EDGE_PX = 1e-3, 0.5
_AP_CONFIDENCE, _AP_IOU, _AP_POINTS = 0.01, 0.65, 101


def renamed(file: Path, folder: Path) -> Path:
    """Return a copy called ``m``, with the weights that an IR needs beside it."""
    target = folder / f"m{file.suffix}"
    shutil.copyfile(file, target)
    if file.suffix == ".xml":
        shutil.copyfile(file.with_suffix(".bin"), target.with_suffix(".bin"))
    return target


def stripped(file: Path, folder: Path) -> Path:
    """Return a copy without metadata: no properties, appended zip or TFLite Metadata, nothing beside it."""
    target = folder / f"m{file.suffix}"
    if file.suffix == ".onnx":
        import onnx

        model = onnx.load(str(file))
        del model.metadata_props[:]
        model.doc_string = model.producer_name = model.producer_version = ""
        onnx.save(model, str(target))
    elif file.suffix == ".tflite":
        data = file.read_bytes()[: _zip_start(file)]
        target.write_bytes(data.replace(b"TFLITE_METADATA", b"XXXXXX_METADATA"))
    else:
        tree = ET.parse(file)
        for parent in list(tree.getroot().iter()):
            for info in parent.findall("rt_info"):
                if parent.tag == "net":
                    parent.remove(info)
        tree.write(target)
        shutil.copyfile(file.with_suffix(".bin"), target.with_suffix(".bin"))
    return target


def _zip_start(file: Path) -> int:
    """Return where a zip at the end of a file begins, or the file's length."""
    if not zipfile.is_zipfile(file):
        return file.stat().st_size
    with zipfile.ZipFile(file) as archive:
        return min(entry.header_offset for entry in archive.infolist())


def imported(file: Path, folder: Path, flags: Row | None, try_on: Path | None = None) -> Any:
    """Return what ``edgekit import`` makes of a file, or the error with which it asks back."""
    target = Path(tempfile.mkdtemp(dir=folder)) / "bundle"
    try:
        return import_model(file, target, flags=flags or {}, try_on=try_on, name="m")
    except EdgekitError as error:
        return error


def sweep(
    change: Callable[[Path, Path], Path],
    file: Path,
    flags: Row | None,
    right: Any,
    inputs: list[Any],
    data: Path,
) -> list[str]:
    """Return what a changed copy of a file answers otherwise than the file; asked back is no answer."""
    with tempfile.TemporaryDirectory() as folder:
        made = imported(change(file, Path(folder)), Path(folder), flags)
        if isinstance(made, EdgekitError):
            asked = made.exit_code == 4 and change is stripped
            return [] if asked else [f"refused: {made.one_line()}"]
        try:
            return different(right, made, inputs, data)
        except ImportError as error:
            return [f"not compared: {error}"]


def different(right: Any, other: Any, inputs: list[Any], data: Path) -> list[str]:
    """Return how the answers of two bundles differ, on each runtime that both have."""
    pair = right.manifest, other.manifest
    backends = [{v.backend: v.id for v in manifest.variants} for manifest in pair]
    problems = [] if backends[0].keys() == backends[1].keys() else [f"runtimes {backends}"]
    problems += [] if pair[0].pre == pair[1].pre else [f"fed by {pair[1].pre} for {pair[0].pre}"]
    for backend in backends[0].keys() & backends[1].keys():
        with (
            edgekit.load(right.path, variant=backends[0][backend], **_low(pair[0])) as first,
            edgekit.load(other.path, variant=backends[1][backend], **_low(pair[1])) as second,
        ):
            for given in inputs:
                pixels = picture(data, given)
                problems += [
                    f"{backend}, {given}: {p}" for p in _apart(first.predict(pixels), second.predict(pixels))
                ]
    return problems


def _low(manifest: Manifest) -> Row:
    return {} if manifest.post.score_threshold <= 0.25 else {"score_threshold": 0.25}


def _apart(first: Prediction, second: Prediction) -> list[str]:
    if len(first.items) != len(second.items):
        return [f"{len(first.items)} items for {len(second.items)}"]
    for a, b in zip(first.items, second.items, strict=True):
        rows = [msgspec.to_builtins(item) for item in (a, b)]
        if a.label != b.label or abs((a.score or 0) - (b.score or 0)) > _SCORE:
            return [f"{a.label} {a.score} for {b.label} {b.score}"]
        if a.box and b.box and max(abs(x - y) for x, y in zip(a.box, b.box, strict=True)) > _EDGE_PX:
            return [f"{a.label} at {a.box} for {b.box}"]
        if rows[0].keys() != rows[1].keys():
            return [f"{sorted(rows[0])} for {sorted(rows[1])}"]
    return []


def single_pictures(file: Path, pictures: Iterable[Path]) -> list[str]:
    """Return where one picture changed what a detector without metadata is fed: never RGB and letterbox."""
    problems = []
    for path in pictures:
        with tempfile.TemporaryDirectory() as folder:
            made = imported(file, Path(folder), None, path)
        if not isinstance(made, EdgekitError):
            pre = made.manifest.pre
            if (pre.color, pre.resize) != ("RGB", "letterbox"):
                problems.append(f"{path.name}: {pre.color}, {pre.resize}")
    return problems


def ap50(bundle: Path, variant: str, data: Path, labels: Iterable[str]) -> float:
    """Return a detector's average precision at an overlap of half on the labelled pictures.

    The mean over the classes that the labels have (of those named), each at 101 points of recall.
    """
    folder = data / "detection" / "coco_train128"
    classes = (folder / "classes.txt").read_text("utf-8").split("\n")
    wanted = {label.casefold() for label in labels}
    predictions, truth = [], []
    with edgekit.load(
        bundle, variant=variant, score_threshold=_AP_CONFIDENCE, iou_threshold=_AP_IOU
    ) as model:
        for path in sorted((folder / "images").glob("*.jpg")):
            pixels = picture(data, path.relative_to(data).as_posix())
            predictions.append(model.predict(pixels).items)
            truth.append(_boxes(folder / "labels" / f"{path.stem}.txt", pixels.shape))
    judged = judge(predictions, truth, [name.strip() for name in classes])
    scores = [
        _at_points(found.is_right, int(found.positives.sum()))
        for number, found in judged.items()
        if classes[number].strip().casefold() in wanted
    ]
    return float(np.mean(scores)) if scores else 0.0


def _at_points(is_right: Any, positives: int) -> float:
    right = np.cumsum(is_right)
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / positives
    at = np.searchsorted(recall, np.linspace(0, 1, _AP_POINTS))
    return float(np.mean([envelope[n] if n < len(envelope) else 0.0 for n in at]))


def _boxes(path: Path, shape: tuple[int, ...]) -> Any:
    rows = path.read_text("utf-8").splitlines() if path.is_file() else []
    table = np.array([row.split() for row in rows], np.float32).reshape(-1, 5)
    size = np.float32([shape[1], shape[0]])
    centre, half = table[:, 1:3] * size, table[:, 3:5] * size / 2
    return np.concatenate([table[:, :1], centre - half, centre + half], axis=1)
