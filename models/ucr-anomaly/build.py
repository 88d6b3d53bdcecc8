"""The anomaly detector: a dense autoencoder with the weights that ``train.py`` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit_optimize.graph.network import Layer, Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekit_optimize.zoo.build import Kit

WINDOW = 96
_HOP = 4  # as pre.hop says
_QUIET, _AROUND = 1600, 24  # samples that evaluate: without the anomaly, and on each side of it


def architecture(weights: Mapping[str, NDArray[np.float32]]) -> Network:
    """Return dense layers from window to window, narrow in the middle, with these weights."""
    layers = [Layer("reshape", ("window",), "flat", shape=(1, WINDOW))]
    names = sorted(key.removesuffix(".weights") for key in weights if key.endswith(".weights"))
    for name in names:
        layers.append(
            Layer(
                "dense",
                (layers[-1].output,),
                name,
                weights=weights[f"{name}.weights"],
                bias=weights[f"{name}.bias"],
                activation="none" if name == names[-1] else "relu",
            )
        )
    layers.append(Layer("reshape", (names[-1],), "reconstruction", shape=(1, WINDOW, 1)))
    return Network({"window": (1, WINDOW, 1)}, tuple(layers), ("reconstruction",))


def series(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the values of a series, and whether each is part of the anomaly."""
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return table[:, 1].astype(np.float32), table[:, 2] > 0


def network(kit: Kit) -> Network:
    """Return the trained network."""
    with np.load(kit.folder / "weights.npz") as weights:
        return architecture({name: weights[name] for name in weights if "." in name})


def golden(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return two normal windows of the test part and the one with the anomaly."""
    values, is_anomaly = series(kit.file("test"))
    return [{"window": _window(values, start)} for start in _golden_starts(is_anomaly)]


def evaluation(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows in order, at the hop of the device, without golden samples.

    A stretch without the anomaly, and the surroundings of the anomaly four times, each shifted by one
    sample: if alarms were rare here, a variant that never raises one would pass the gate. The start of
    the test file is skipped, since it repeats the normal part.
    """
    values, is_anomaly = series(kit.file("test"))
    known, _ = series(kit.file("train"))
    first, last = np.flatnonzero(is_anomaly)[[0, -1]]
    starts = list(range(len(known), len(known) + _QUIET, _HOP))
    for later in range(_HOP):
        starts += range(first - WINDOW - _AROUND + later, last + _AROUND, _HOP)
    golden_starts = _golden_starts(is_anomaly)
    return [{"window": _window(values, start)} for start in starts if start not in golden_starts]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows of the normal part."""
    values, _ = series(kit.file("train"))
    golden_starts = _golden_starts(series(kit.file("test"))[1])
    starts = range(0, len(values) - WINDOW, 5)
    return [{"window": _window(values, start)} for start in starts if start not in golden_starts]


def _golden_starts(is_anomaly: NDArray[np.bool_]) -> tuple[int, ...]:
    return 500, 2000, int(np.flatnonzero(is_anomaly)[0]) - 24


def _window(values: NDArray[np.float32], start: int) -> NDArray[np.float32]:
    return values[start : start + WINDOW].reshape(1, WINDOW, 1)
