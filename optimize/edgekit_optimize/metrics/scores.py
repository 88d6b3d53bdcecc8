"""Per-sample scores of raw outputs: top-k accuracy, agreement and cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TensorError

Outputs = Mapping[str, NDArray[np.float32]]
Scores = NDArray[np.float64]


def finite_samples(outputs: Outputs) -> NDArray[np.bool_]:
    """Return for each sample whether all its outputs are finite; empty without outputs."""
    rows = [np.isfinite(values.reshape(len(values), -1)).all(axis=1) for values in outputs.values()]
    return np.logical_and.reduce(rows) if rows else np.zeros(0, np.bool_)


def class_scores(outputs: Outputs) -> NDArray[np.float32]:
    """Return the class scores, shape (n, positions, classes); positions is 1 for a classifier.

    The class scores are the output ``scores``, the only output with more than one value, or the only
    output. Axes of length 1 are ignored.

    Raises:
        TensorError: Several outputs could be the class scores.
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
    """Return for each sample the probability that its class is among the k best.

    Integer outputs saturate, so several classes may share a score, and their order is up to the
    runtime. Ties are therefore broken at random: with ``b`` better classes and ``t`` classes of equal
    score, the probability is ``(k - b) / t``, clipped to 0 and 1; for k = 1 a tie of t gives 1/t.

    Args:
        outputs: Logical outputs, (n, ...).
        labels: The class of each sample.
        k: How many of the best classes count.
        classes: Number of names in the model's labels file, 0 without one. If the output has one
            class more, its first class is the background.

    Raises:
        TensorError: A label is not a class of the output, or there is more than one position.

    Source: own rule: expected accuracy with ties in random order.
    """
    scores = class_scores(outputs)
    if scores.shape[1] != 1:
        raise TensorError(
            f"want one class per sample, the output has {scores.shape[1]} positions", hint="choose agreement"
        )
    scores = scores[:, 0]
    targets = labels + int(classes > 0 and scores.shape[1] == classes + 1)
    if len(targets) and (targets.min() < 0 or targets.max() >= scores.shape[1]):
        raise TensorError(
            f"class {int(targets.max())} is beyond the {scores.shape[1]} classes of the output",
            hint="class indices count from 0: if the data's count from 1, subtract 1 from each; if the"
            " model's first class is a background that the data do not have, give --labels without it",
        )
    target_scores = scores[np.arange(len(scores)), targets][:, None]
    better, tied = (scores > target_scores).sum(axis=1), (scores == target_scores).sum(axis=1)
    return np.asarray(np.clip((k - better) / np.maximum(tied, 1), 0.0, 1.0), np.float64)


def shifted(outputs: Outputs, labels: NDArray[np.int64], classes: int = 0) -> str:
    """Return a warning if the labels seem offset by one from the model's classes, else an empty string.

    They do if the float model is right far more often with every label one lower or one higher.

    Args:
        outputs: Logical outputs of the float model, (n, ...).
        labels: The class of each sample.
        classes: As for ``top_k``.
    """
    scores = class_scores(outputs)[:, 0]
    best, lead = scores.argmax(axis=1), int(classes > 0 and scores.shape[1] == classes + 1)
    accuracy = float((best == labels + lead).mean())
    for step, how in ((-1, "lower"), (1, "higher")):
        right = float((best == labels + lead + step).mean())
        if right > max(2 * accuracy, 0.3):
            return (
                f"the float model is right on {accuracy:.1%} of the samples, but on {right:.1%} if every"
                f" label were one {how}: labels and model classes probably start at different numbers"
                " (at 1, or with a background class first)"
            )
    return ""


def agreement(reference: Outputs, candidate: Outputs) -> Scores:
    """Return for each sample the probability that its best class is also a best class of the float model.

    That is the share of the candidate's tied best classes that are best for the float model too,
    averaged over positions (of a mask). A single score is compared by the side of 0.5 it is on.

    Source: own rule, as for ``top_k``.
    """
    base, mine = class_scores(reference), class_scores(candidate)
    if base.shape != mine.shape:
        raise TensorError(f"outputs have shape {mine.shape}, the float model's {base.shape}")
    if base.shape[2] == 1:
        return np.asarray(((base >= 0.5) == (mine >= 0.5)).mean(axis=(1, 2)), np.float64)
    best, chosen = (values == values.max(axis=2, keepdims=True) for values in (base, mine))
    share = (best & chosen).sum(axis=2) / np.maximum(chosen.sum(axis=2), 1)
    return np.asarray(share.mean(axis=1), np.float64)


def cosine(reference: Outputs, candidate: Outputs) -> Scores:
    """Return for each sample the cosine similarity to the float model's outputs, averaged over outputs.

    Negative cosines count as 0. Two all-zero outputs give 1, one all-zero output gives 0. For an output
    of a single value the score is 1 minus the difference, relative to the range of the float model's
    values over all samples.
    """
    parts = []
    for name, expected in reference.items():
        if name not in candidate or candidate[name].shape != expected.shape:
            raise TensorError(f"output {name!r}: want shape {expected.shape}, as the float model's")
        a, b = (np.reshape(v, (len(v), -1)).astype(np.float64) for v in (expected, candidate[name]))
        if a.shape[1] == 1 and len(a) > 1:
            parts.append(_closeness(a[:, 0], b[:, 0]))
            continue
        a, b = (v / np.maximum(np.abs(v).max(axis=1, keepdims=True), 1e-300) for v in (a, b))
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        both_zero = ~(a.any(axis=1) | b.any(axis=1))
        parts.append(np.where(norms > 0, (a * b).sum(axis=1) / np.where(norms > 0, norms, 1.0), both_zero))
    return np.clip(np.mean(parts, axis=0), 0.0, 1.0) if parts else np.zeros(0)


def _closeness(expected: Scores, candidate: Scores) -> Scores:
    finite = expected[np.isfinite(expected)]
    span = float(np.ptp(finite)) if len(finite) else 0.0
    apart = np.abs(expected - candidate)
    return np.asarray(np.clip(1 - apart / span, 0.0, 1.0) if span > 0 else apart == 0, np.float64)
