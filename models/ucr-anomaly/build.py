"""The anomaly detector: a dense autoencoder with the weights that ``train.py`` wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.optimize.network import Layer, Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekit.optimize.zoo import Kit

WINDOW = 96


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
    starts = (500, 2000, int(np.flatnonzero(is_anomaly)[0]) - 24)
    return [{"window": values[start : start + WINDOW].reshape(1, WINDOW, 1)} for start in starts]


def calibration(kit: Kit) -> list[dict[str, NDArray[Any]]]:
    """Return windows of the normal part."""
    values, _ = series(kit.file("train"))
    starts = range(0, len(values) - WINDOW, 5)
    return [{"window": values[start : start + WINDOW].reshape(1, WINDOW, 1)} for start in starts]
