"""Compares the variants of one bundle on the same pictures: which is right, and which is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.spec import Variant
from edgekit.importer.trial import Answers, VariantAnswers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = ("fp32", "fp16", "bf16")
FLOAT_TOLERANCE, INTEGER_TOLERANCE = 0.05, 0.3
"""Largest relative difference to the variant that judges."""
_SURE, _SCORES_APART = 0.4, 0.2
_AS_FLOAT = 0.15
"""Largest difference of an int8 file's scores where a CPU without its arithmetic computes it in floats.

Measured: 0.11 to 0.12 where a YOLOv8's items were the same within 0.03, 0.17 to 0.49 where a YOLOv5's and a
YOLOv8's were off by 0.05 to 0.09.
"""
_BOX = 4
Items = Sequence[Sequence[dict[str, Any]]]


def broken(answers: VariantAnswers, *, may_be_constant: bool = False, state: Collection[str] = ()) -> str:
    """Return why a variant's answers cannot be right by themselves, or an empty text.

    ``may_be_constant``: the inputs were noise, in which a model may find nothing; ``state``: the outputs
    of which that is always so.
    """
    for name, arrays in answers.outputs.items():
        for array in arrays:
            if not np.isfinite(array).all():
                share = 1 - float(np.isfinite(array).mean())
                return f"output {name!r} has values that are no finite numbers ({share:.1%} of them)"
        is_free = may_be_constant or name in state
        if not is_free and all(array.size > 1 and float(np.ptp(array)) == 0 for array in arrays):
            return f"output {name!r} has one value everywhere, whatever the picture"
    return ""


def disagreements(
    answers: Mapping[str, VariantAnswers],
    variants: Sequence[Variant],
    *,
    is_list: bool = False,
    is_noise: bool = False,
    state: Collection[str] = (),
    axis: int = 0,
) -> tuple[str, dict[str, str]]:
    """Return which variant judges, and why each variant that differs from it is left out.

    The judge is the first variant, in the order given, whose answers are finite and vary: the float one
    before the int8 one, the format's own runtime before another.

    Args:
        answers: By variant, on the same pictures.
        variants: In the order in which they may judge.
        is_noise: The inputs were noise: answers may be the same everywhere.
        state: The outputs that are recurrent state: they may be that too.
        is_list: The outputs are lists of detections: their order is compared no further than their items.
        axis: The axis of a dense detector's outputs along which a box comes first and then scores; 0: none.
    """
    excluded = {
        name: why
        for name, row in answers.items()
        if (why := broken(row, may_be_constant=is_noise, state=state))
    }
    order = sorted(
        (v for v in variants if v.id in answers and v.id not in excluded),
        key=lambda v: v.precision not in _FLOATS,
    )
    if not order:
        return "", excluded
    judge = order[0]
    for variant in order[1:]:
        if is_list:
            if lost := _lost(answers[variant.id].items, answers[judge.id].items):
                excluded[variant.id] = f"does not see what {judge.id} sees: {lost}"
            continue
        off = largest_difference(answers[variant.id].outputs, answers[judge.id].outputs)
        is_float = variant.precision in _FLOATS and judge.precision in _FLOATS
        if not off <= (FLOAT_TOLERANCE if is_float else INTEGER_TOLERANCE):
            excluded[variant.id] = f"differs from {judge.id} by {off:.0%} on the same pictures"
        elif axis and _is_as_float(variant) and not _is_as_float(judge):
            off = _scores_off(answers[variant.id].outputs, answers[judge.id].outputs, axis)
            if off > _AS_FLOAT:
                excluded[variant.id] = (
                    f"this CPU lacks the arithmetic of the file's int8 layers; in floats its scores differ "
                    f"from those of {judge.id} by {off:.0%} on the same pictures"
                )
    return judge.id, excluded


def _lost(items: Items, judge: Items) -> str:
    """Return the first sure item of the judge that has no like among the items of the same picture."""
    for seen, right in zip(items, judge, strict=True):
        for wanted in right:
            if (wanted.get("score") or 0) < _SURE:
                continue
            same = [i for i in seen if i.get("label") == wanted.get("label")]
            if not any(abs((i.get("score") or 0) - wanted["score"]) < _SCORES_APART for i in same):
                return f"{wanted.get('label')} {wanted['score']:.2f}"
    return ""


def _is_as_float(variant: Variant) -> bool:
    return bool(variant.options.get("properties", {}).get("LP_TRANSFORMS_MODE") == "NO")


def _scores_off(answers: Answers, judge: Answers, axis: int) -> float:
    """Return the largest difference of what follows the boxes, as a share of its size."""
    worst = 0.0
    for name, rows in judge.items():
        for right, other in zip(rows, answers.get(name, ()), strict=False):
            if right.ndim <= axis or right.shape != other.shape or right.shape[axis] <= _BOX:
                continue
            index = np.arange(_BOX, right.shape[axis])
            wanted, seen = (array.take(index, axis).astype(np.float64) for array in (right, other))
            size = float(np.linalg.norm(wanted))
            worst = max(worst, float(np.linalg.norm(seen - wanted)) / size if size else 0.0)
    return worst


def largest_difference(answers: Answers, judge: Answers) -> float:
    """Return the largest relative difference of any output on any picture; free sizes are skipped."""
    worst = 0.0
    for name, rows in judge.items():
        for right, other in zip(rows, answers.get(name, ()), strict=False):
            if right.shape == other.shape:
                worst = max(worst, relative(other, right))
    return worst


def relative(other: NDArray[Any], right: NDArray[Any]) -> float:
    """Return the distance of two arrays as a share of how far the right one is from its own mean."""
    spread = float(np.linalg.norm(right - right.mean(axis=-1, keepdims=True))) or float(np.linalg.norm(right))
    distance = float(np.linalg.norm(other.astype(np.float64) - right))
    return distance / spread if spread else float(distance > 0)


def tolerance(answers: Sequence[Answers], judge: Answers, number: int) -> float:
    """Return the largest difference that any of the kept variants has to the judge on one picture."""
    worst = 0.0
    for other in answers:
        for name, rows in judge.items():
            held = other.get(name, ())
            if len(held) > number and held[number].shape == rows[number].shape:
                worst = max(worst, float(np.max(np.abs(held[number] - rows[number]), initial=0.0)))
    return worst
