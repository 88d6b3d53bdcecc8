"""A model and data of the smallest kind that every compression tool still has work with."""

import cv2
import numpy as np

from edgekit_optimize.graph.network import Layer, Network

SIDE = 24


def brightness_net():
    """Tells bright pictures from dark ones: enough of a network for every tool to have work."""
    rng = np.random.default_rng(0)
    kernel = np.abs(rng.normal(0.3, 0.1, (8, 3, 3, 3))).astype(np.float32) / 9
    layers = (
        Layer("conv", ("image",), "conv", weights=kernel, bias=np.zeros(8, np.float32), activation="relu"),
        Layer("mean", ("conv",), "features"),
        Layer(
            "dense",
            ("features",),
            "scores",
            weights=np.stack([np.full(8, -1.0), np.full(8, 1.0)]).astype(np.float32),
            bias=np.float32([3.2, -3.2]),
        ),
    )
    return Network({"image": (1, SIDE, SIDE, 3)}, layers, ("scores",))


def write_pictures(folder, count=20):
    """Write dark and light pictures, each kind in a folder of its name."""
    rng = np.random.default_rng(1)
    for name, level in (("dark", 40), ("light", 180)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(level, level + 60, (SIDE, SIDE, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
