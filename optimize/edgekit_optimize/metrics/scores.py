"""Per-sample scores of outputs as they are: right answers, same answers, same direction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError

Outputs = Mapping[str, NDArray[np.float32]]
Scores = NDArray[np.float64]


def finite_samples(outputs: Outputs) -> NDArray[np.bool_]:
    """Return for each sample whether every output is a finite number; empty without outputs."""
    rows = [np.isfinite(values.reshape(len(values), -1)).all(axis=1) for values in outputs.values()]
    return np.logical_and.reduce(rows) if rows else np.zeros(0, np.bool_)


def class_scores(outputs: Outputs) -> NDArray[np.float32]:
    """Return the output that has a score for each class, shape (n, places, classes).

    It is the only output, or the one called ``scores``, or the only one with more than one value.
    Axes of length 1 do not count; a model that answers at one place has ``places`` 1.

    Raises:
        TensorError: It is not clear which output that is.
    """
    wide = [name for name, values in outputs.items() if values[0].size > 1]
    name = next((n for n in ("scores", *wide[:1], *outputs) if n in outputs), "")
    if not name or (name != "scores" and len(wide) > 1):
        raise TensorError(
            f"outputs {sorted(outputs)}: none is called 'scores', so which one has the classes is unknown",
            hint="choose another metric, such as cosine",
        )
    values = outputs[name]
    shape = [length for length in values.shape[1:] if length != 1]
    return values.reshape(len(values), -1, shape[-1] if shape else 1)


def top_k(outputs: Outputs, labels: NDArray[np.int64], k: int, classes: int = 0) -> Scores:
    """Return for each sample the chance that its class is among the k best.

    Integers saturate, so several classes may share a score. Their order is then an accident of the
    runtime, and counting it as right or wrong would favour one. Of ``t`` classes with the score of
    the right one, ``b`` better ones before them, the right one is among the first k with chance
    ``(k - b) / t``, cut to 0 and 1: for k = 1 a tie of t is worth 1/t.

    Args:
        outputs: Logical outputs, (n, ...).
        labels: The class of each sample.
        k: How many answers count.
        classes: How many names the model's labels file has; where the output has one class more, its
            first is the background. 0 where there is no such file.

    Raises:
        TensorError: A label is no class of the output.

    Source: own rule; the expected accuracy under a random order of ties.
    """
    scores = class_scores(outputs)
    if scores.shape[1] != 1:
        raise TensorError(f"want one answer for each sample, got {scores.shape[1]}", hint="choose agreement")
    scores = scores[:, 0]
    wanted = labels + int(classes > 0 and scores.shape[1] == classes + 1)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= scores.shape[1]):
        raise TensorError(
            f"class {int(wanted.max())} is beyond the {scores.shape[1]} classes of the output",
            hint="class indices count from 0: if the data's count from 1, subtract 1 from each; where the"
            " model's first class is a background that the data lack, give --labels without it",
        )
    own = scores[np.arange(len(scores)), wanted][:, None]
    better, tied = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return np.asarray(np.clip((k - better) / np.maximum(tied, 1), 0.0, 1.0), np.float64)


def shifted(outputs: Outputs, labels: NDArray[np.int64], classes: int = 0) -> str:
    """Return that labels seem to count from another number than the model's classes; empty where not.

    So it is where the model is far more often right with every label one lower or higher.

    Args:
        outputs: Logical outputs of the float model, (n, ...).
        labels: The class of each sample.
        classes: As for ``top_k``.
    """
    scores = class_scores(outputs)[:, 0]
    best, lead = scores.argmax(axis=1), int(classes > 0 and scores.shape[1] == classes + 1)
    plain = float((best == labels + lead).mean())
    for step, how in ((-1, "lower"), (1, "higher")):
        right = float((best == labels + lead + step).mean())
        if right > max(2 * plain, 0.3):
            return (
                f"the float model is right on {plain:.1%} of the samples, and on {right:.1%} were every label"
                f" one {how}: labels and the model's classes most likely do not count from the same number"
                " (from 1, or with a background class first)"
            )
    return ""


def agreement(reference: Outputs, found: Outputs) -> Scores:
    """Return for each sample the chance that its answer is one that the float model may give.

    An answer is any class with the highest score, each as likely: the share of the candidate's best
    classes that are among the float model's best. A model of many answers (a mask) has the share over
    its places; one of a single score answers on which side of 0.5 it lies.

    Source: own rule, as for ``top_k``.
    """
    wanted, given = class_scores(reference), class_scores(found)
    if wanted.shape != given.shape:
        raise TensorError(f"outputs have shape {given.shape}, the float model's {wanted.shape}")
    if wanted.shape[2] == 1:
        return np.asarray(((wanted >= 0.5) == (given >= 0.5)).mean(axis=(1, 2)), np.float64)
    best, mine = (values == values.max(axis=2, keepdims=True) for values in (wanted, given))
    share = (best & mine).sum(axis=2) / np.maximum(mine.sum(axis=2), 1)
    return np.asarray(share.mean(axis=1), np.float64)


def cosine(reference: Outputs, found: Outputs) -> Scores:
    """Return for each sample the mean over outputs of their cosine with the float model's, 0 to 1.

    Two outputs of zeros are alike (1), an output of zeros and another are not (0); opposite ones
    count as 0. A single value has no direction, only a sign: its score is 1 minus its difference, as a
    share of the range that the float model's has over all samples.
    """
    parts = []
    for name, wanted in reference.items():
        if name not in found or found[name].shape != wanted.shape:
            raise TensorError(f"output {name!r}: want shape {wanted.shape} as the float model's")
        a, b = (np.reshape(v, (len(v), -1)).astype(np.float64) for v in (wanted, found[name]))
        if a.shape[1] == 1 and len(a) > 1:
            parts.append(_closeness(a[:, 0], b[:, 0]))
            continue
        a, b = (v / np.maximum(np.abs(v).max(axis=1, keepdims=True), 1e-300) for v in (a, b))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        both_zero = ~(a.any(axis=1) | b.any(axis=1))
        parts.append(np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), both_zero))
    return np.clip(np.mean(parts, axis=0), 0.0, 1.0) if parts else np.zeros(0)


def _closeness(wanted: Scores, found: Scores) -> Scores:
    finite = wanted[np.isfinite(wanted)]
    span = float(np.ptp(finite)) if len(finite) else 0.0
    apart = np.abs(wanted - found)
    return np.asarray(np.clip(1 - apart / span, 0.0, 1.0) if span > 0 else apart == 0, np.float64)
