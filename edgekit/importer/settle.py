"""What pictures of the user may decide, where the family's convention was assumed: nothing from too few.

Measured on 128 COCO pictures with YOLOv5 and v8: ranking RGB against BGR by score is wrong on a quarter to a
third of single pictures and right with 16 each time; letterbox against stretch is often wrong with 32. So
colour needs 16 pictures; the scale of the values shows in one; geometry is never decided by scores, only by
boxes that the user drew. Those decide it where they are 32 and the difference is three times its standard
error: wrong on 0 to .6 % of draws of 32 pictures with nine detectors, and open with most
(``benchmarks/import_geometry.py``).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgekit.core.spec import Finding, Manifest
from edgekit.importer.labelled import Truth, agreement

COLOR_PICTURES, GEOMETRY_PICTURES = 16, 32
ERRORS = 3.0
"""Standard errors by which one geometry must be the better one."""
LOW = 0.05
"""The score threshold with which candidates are compared."""
_CLEAR = 0.75
"""The share of pictures on which one colour order must be the better one."""
_NOTHING, _SOMETHING = 0.1, 0.3
Items = Sequence[Sequence[dict[str, Any]]]
Try = Callable[[Manifest], Items]


def settled(manifest: Manifest, pictures: int, run: Try, truth: Sequence[Truth] = ()) -> Manifest:
    """Return the manifest with its assumed scale, colour order and geometry decided, where they may be.

    Args:
        manifest: With the assumed values.
        pictures: How many pictures of the user there are.
        run: Returns each picture's items with the values of a manifest.
        truth: The boxes labelled on each picture; empty where none is.
    """
    if not pictures or manifest.post.decoder == "raw":
        return manifest
    here = run(manifest)
    manifest, here = _scale(manifest, here, run)
    if pictures >= COLOR_PICTURES:
        manifest, here = _color(manifest, here, run)
    return _geometry(manifest, here, run, truth)


def with_threshold(manifest: Manifest, score: float) -> Manifest:
    """Return a manifest that takes items from this score on."""
    return msgspec.structs.replace(
        manifest, post=msgspec.structs.replace(manifest.post, score_threshold=score)
    )


def _scale(manifest: Manifest, here: Items, run: Try) -> tuple[Manifest, Items]:
    """Take 0 to 255 for 0 to 1, or the other way, if only that sees anything."""
    std = manifest.pre.std
    if _source(manifest, "std") != "assumed" or std not in ((255.0,), (1.0,)) or any(manifest.pre.mean):
        return manifest, here
    other = _changed(manifest, std=(1.0,) if std == (255.0,) else (255.0,))
    there = run(other)
    ours, theirs = max(_best(here), default=0.0), max(_best(there), default=0.0)
    why = f"best score {ours:.2f} at std {std[0]:g}, {theirs:.2f} at std {other.pre.std[0]:g}"
    if ours < _NOTHING and theirs > _SOMETHING:
        return _noted(other, "std", other.pre.std[0], why), there
    if ours > _SOMETHING and theirs < _NOTHING:
        return _noted(manifest, "std", std[0], why), here
    return manifest, here


def _color(manifest: Manifest, here: Items, run: Try) -> tuple[Manifest, Items]:
    """Take the colour order that gives the higher score on three of four pictures."""
    if _source(manifest, "color") != "assumed" or manifest.pre.color == "GRAY":
        return manifest, here
    other = _changed(manifest, color="BGR" if manifest.pre.color == "RGB" else "RGB")
    there = run(other)
    pairs = [(a, b) for a, b in zip(_best(here), _best(there), strict=True) if max(a, b) > _NOTHING]
    if len(pairs) < COLOR_PICTURES:
        return manifest, here
    ours = sum(a > b for a, b in pairs) / len(pairs)
    mean = [sum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    orders = manifest.pre.color, other.pre.color
    why = f"mean score {mean[0]:.3f} as {orders[0]}, {mean[1]:.3f} as {orders[1]}, {len(pairs)} pictures"
    if ours >= _CLEAR and mean[0] > mean[1]:
        return _noted(manifest, "color", manifest.pre.color, why), here
    if ours <= 1 - _CLEAR and mean[1] > mean[0]:
        return _noted(other, "color", other.pre.color, why), there
    return manifest, here


def _geometry(manifest: Manifest, here: Items, run: Try, truth: Sequence[Truth]) -> Manifest:
    """Take the way of bringing pictures to size whose items meet the labelled boxes clearly better."""
    resize, labelled = manifest.pre.resize, [at for at, boxes in enumerate(truth) if boxes]
    is_open = _source(manifest, "resize") == "assumed" and resize in ("letterbox", "stretch")
    if not is_open or len(labelled) < GEOMETRY_PICTURES:
        return manifest
    other = _changed(manifest, resize="stretch" if resize == "letterbox" else "letterbox")
    ours, theirs = (
        [agreement(items[at], truth[at] or ()) for at in labelled] for items in (here, run(other))
    )
    margin = better_by(ours, theirs)
    why = (
        f"met the labelled boxes by {statistics.mean(ours):.3f} as {resize}, "
        f"by {statistics.mean(theirs):.3f} as {other.pre.resize}, {len(labelled)} pictures"
    )
    if margin > ERRORS:
        return _noted(manifest, "resize", resize, why)
    if margin < -ERRORS:
        return _noted(other, "resize", other.pre.resize, why)
    return manifest


def better_by(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return by how many standard errors the first is better over pairs; negative: the second is.

    >>> round(better_by([0.5, 0.6, 0.7], [0.4, 0.4, 0.4]), 2)
    3.46
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return mean / error if error else math.copysign(math.inf, mean) if mean else 0.0


def _best(items: Items) -> list[float]:
    return [max((float(item.get("score") or 0) for item in row), default=0.0) for row in items]


def _source(manifest: Manifest, key: str) -> str:
    return next((row.source for row in manifest.provenance.conclusions if row.key == key), "")


def _changed(manifest: Manifest, **pre: Any) -> Manifest:
    return msgspec.structs.replace(manifest, pre=msgspec.structs.replace(manifest.pre, **pre))


def _noted(manifest: Manifest, key: str, value: Any, why: str) -> Manifest:
    rows = tuple(
        Finding(key, value, "tried", why) if row.key == key else row
        for row in manifest.provenance.conclusions
    )
    origin = msgspec.structs.replace(manifest.provenance, conclusions=rows)
    return msgspec.structs.replace(manifest, provenance=origin)
