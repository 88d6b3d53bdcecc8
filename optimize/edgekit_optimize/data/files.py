"""Reads folders of pictures: one subfolder per class, ``labels.csv``, YOLO layout, or no labels."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.spec import TensorSpec
from edgekit.pipeline.picture_files import SUFFIXES, list_pictures, picture_order, read_picture
from edgekit_optimize.data.listing import Listing, Prepare, Sample, fit_picture

_FILE_COLUMNS = ("file", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "class", "class_index", "class_id", "index", "category", "name")
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
_MAX_TEXT_BYTES = 64 << 20
_LAYOUTS = "subfolders named as classes; or labels.csv with columns file,label; or images/ and labels/"


def list_folder(folder: Path, spec: TensorSpec, prepare: Prepare) -> Listing:
    """Return the pictures of a folder, with their labels or boxes if there are any.

    Args:
        folder: Has ``labels.csv``; or ``images/`` and ``labels/`` (YOLO: for each picture a text file
            with lines of class, centre x, centre y, width, height from 0 to 1; ``classes.txt`` or
            ``data.yaml`` has the class names); or one subfolder per class; or just pictures.
        spec: The model's image input.
        prepare: The device's resizing.

    Raises:
        ConfigError: There are no pictures, too many pictures, or invalid labels.
    """
    if (folder / "labels.csv").is_file():
        return _from_csv(folder, spec, prepare)
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        return _from_yolo(folder, spec, prepare)
    names = _pictures(folder, folder)
    tops = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(tops))
    if "" in classes and len(classes) > 1:
        raise ConfigError(
            f"{folder}: has pictures next to its subfolders {', '.join(classes[1:4])}", hint=f"use {_LAYOUTS}"
        )
    read = _reader(folder, names, spec, prepare)
    return Listing(
        str(folder), names, read, labels=tuple(tops) if len(classes) > 1 else None, recordings=_folders(names)
    )


def read_sample(path: Path) -> NDArray[np.uint8]:
    """Return a picture, shape (height, width, 3), uint8, BGR.

    Raises:
        ConfigError: OpenCV is not installed, or cannot read the file.
    """
    try:
        return read_picture(path)
    except TensorError as error:
        raise ConfigError(error.message, hint="repair or remove the file") from error


def _pictures(folder: Path, root: Path) -> tuple[str, ...]:
    """Return the sorted paths of a folder's pictures relative to ``root``, without hidden files."""
    inner = folder.relative_to(root)
    names = tuple((inner / name).as_posix() for name in list_pictures(folder))
    if not names:
        raise ConfigError(
            f"{folder}: has no pictures ({', '.join(sorted(SUFFIXES))})", hint=f"use {_LAYOUTS}"
        )
    return names


def _folders(names: Sequence[str]) -> tuple[str, ...]:
    """Return each picture's folder, which is its recording for a model with state."""
    return tuple(name.rpartition("/")[0] for name in names)


def _reader(
    root: Path,
    names: tuple[str, ...],
    spec: TensorSpec,
    prepare: Prepare,
    boxes: tuple[NDArray[np.float32], ...] | None = None,
) -> Callable[[int], Sample]:
    def read(index: int) -> Sample:
        path = root / names[index]
        sample = fit_picture(read_sample(path), spec, prepare, str(path))
        if boxes is None or sample.size is None:
            return sample
        return Sample(sample.inputs, sample.size, _corners(boxes[index], sample.size))

    return read


# ---------------------------------------------------------------------------------------------
# labels.csv


def _from_csv(folder: Path, spec: TensorSpec, prepare: Prepare) -> Listing:
    table = folder / "labels.csv"
    try:
        rows = list(csv.reader(_text(table).splitlines()))
    except csv.Error as cause:
        raise ConfigError(f"{table}: not CSV: {cause}", hint="give a line 'file,label' for each") from cause
    rows = [[field.strip() for field in row] for row in rows if any(field.strip() for field in row)]
    if not rows:
        raise ConfigError(f"{table}: is empty", hint="give a line 'file,label' per picture")
    file_at, label_at, body = _columns(folder, rows)
    labels: dict[str, str] = {}
    for number, row in enumerate(body, len(rows) - len(body) + 1):
        if len(row) <= max(file_at, label_at) or not row[file_at] or not row[label_at]:
            raise ConfigError(
                f"{table}: row {number} has no file or no label: {','.join(row)[:80]!r}",
                hint="separate the two by a comma: file,label",
            )
        name, label = row[file_at], row[label_at]
        if labels.setdefault(name, label) != label:
            raise ConfigError(f"{table}: {name!r} is labelled both {labels[name]!r} and {label!r}")
    if missing := [name for name in labels if not (folder / name).is_file()]:
        raise ConfigError(
            f"{table}: {len(missing)} of its files do not exist, such as {missing[0]!r}",
            hint="paths are relative to the folder of labels.csv",
        )
    names = tuple(sorted(labels, key=picture_order))
    if not names:
        raise ConfigError(f"{table}: lists no files", hint="give a line 'file,label' per picture")
    others = len(set(_pictures(folder, folder)) - set(names))
    warnings = (f"{others} pictures are not in labels.csv and were left out",) if others else ()
    values = [labels[name] for name in names]
    is_numeric = all(_WHOLE.fullmatch(label) for label in values)
    return Listing(
        str(folder),
        names,
        _reader(folder, names, spec, prepare),
        labels=tuple(int(float(label)) for label in values) if is_numeric else tuple(values),
        warnings=warnings,
        recordings=_folders(names),
    )


def _columns(folder: Path, rows: list[list[str]]) -> tuple[int, int, list[list[str]]]:
    """Return the columns of file and label, and the rows without the header."""
    heading = [field.lower() for field in rows[0]]
    if (folder / rows[0][0]).is_file() or len(heading) < 2:
        return 0, 1, rows
    file_at = next((heading.index(name) for name in _FILE_COLUMNS if name in heading), 0)
    label_at = next(
        (at for name in _LABEL_COLUMNS for at, field in enumerate(heading) if field.startswith(name)),
        1 if file_at != 1 else 0,
    )
    if label_at == file_at:
        label_at = 1 if file_at != 1 else 0
    return file_at, label_at, rows[1:]


# ---------------------------------------------------------------------------------------------
# YOLO


def _from_yolo(folder: Path, spec: TensorSpec, prepare: Prepare) -> Listing:
    names = _pictures(folder / "images", folder)
    texts = [folder / "labels" / Path(name).relative_to("images").with_suffix(".txt") for name in names]
    if not any(text.is_file() for text in texts):
        raise ConfigError(
            f"{folder}: labels/ has no text file for any of {len(names)} pictures, such as {texts[0].name}",
            hint="name each labels/NAME.txt as its images/NAME.jpg",
        )
    boxes = tuple(_boxes(text) for text in texts)
    classes = _class_names(folder)
    largest = max((int(rows[:, 0].max()) for rows in boxes if len(rows)), default=-1)
    if classes and largest >= len(classes):
        raise ConfigError(f"{folder}: has class {largest}, but only {len(classes)} class names")
    read = _reader(folder, names, spec, prepare, boxes)
    return Listing(str(folder), names, read, classes=classes, has_boxes=True, recordings=_folders(names))


def _class_names(folder: Path) -> tuple[str, ...]:
    """Return the class names from ``classes.txt``, or from ``names`` in ``data.yaml``."""
    for path in (folder / "classes.txt", folder / "labels" / "classes.txt"):
        if path.is_file():
            return tuple(line.strip() for line in _text(path).splitlines() if line.strip())
    path = folder / "data.yaml"
    return _yaml_names(_text(path), path) if path.is_file() else ()


def _yaml_names(text: str, path: Path) -> tuple[str, ...]:
    """Return the list under ``names``, written inline, as a block list, or as numbered keys.

    Raises:
        ConfigError: ``names`` has another form.
    """
    start = re.search(r"^names:", text, re.MULTILINE)
    if start is None:
        return ()
    value = text[start.end() :].lstrip(" \t")
    if value.startswith("["):
        entries, numbers = value[1 : value.find("]")].split(","), []
    else:
        lines = itertools.takewhile(_ENTRY.match, value.partition("\n")[2].splitlines())
        matches = [match for line in lines if (match := _ENTRY.match(line))]
        entries, numbers = [m[2] for m in matches], [int(m[1]) for m in matches if m[1].isdecimal()]
    names = tuple(entry.split(" #")[0].strip().strip("'\"") for entry in entries if entry.strip())
    if not names or numbers not in ([], list(range(len(names)))):
        raise ConfigError(
            f"{path}: 'names' is not a list of classes", hint="write them into classes.txt, one per line"
        )
    return names


_ENTRY = re.compile(r"[ \t]*(-|[0-9]{1,6}(?=:)):?[ \t]+(.+)")


def _boxes(path: Path) -> NDArray[np.float32]:
    """Return a text file's boxes, (k, 5): class, centre x and y, width, height; none without the file."""
    if not path.is_file():
        return np.zeros((0, 5), np.float32)  # in YOLO's layout, a picture without objects
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        values = [_number(field) for field in fields]
        if len(values) != 5 or not _is_box(values):
            raise ConfigError(
                f"{path}: line {number}: want class, centre x, centre y, width and height from 0 to 1,"
                f" got {line.strip()[:80]!r}"
            )
        rows.append(values)
    return np.array(rows, np.float32).reshape(-1, 5)


def _is_box(values: list[float]) -> bool:
    kind, x, y, width, height = values
    inside = all(-1e-3 <= value <= 1 + 1e-3 for value in (x, y, width, height))
    return kind >= 0 and kind == int(kind) and kind < 1e6 and inside and width > 0 and height > 0


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def _corners(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return boxes in pixels of the picture, clipped at its edges."""
    limit = np.array(size, np.float32)
    centre, half = boxes[:, 1:3] * limit, boxes[:, 3:5] * limit / 2
    low, high = np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)
    return np.asarray(np.concatenate([boxes[:, :1], low, high], axis=1), np.float32)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise ConfigError(f"{path}: {path.stat().st_size} bytes, the limit is {_MAX_TEXT_BYTES}")
    try:
        return str(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path}: is not UTF-8 text: {cause}") from cause
