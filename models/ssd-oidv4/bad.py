"""Make a bad version of the object detector, to rehearse how a fleet takes one back.

    python models/ssd-oidv4/bad.py -o DIR [--kind everything | nothing] [--version 3.0.0]

This is what a training run that went wrong looks like from outside: the biases of the class scores
are shifted, so that the model sees things everywhere, or nowhere. Everything else about the bundle
is in order: the hashes, the manifest, the speed, and the golden samples, which are recorded from the
bad model itself. Only what it does on live frames betrays it (``guards.event_ratio``).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit_optimize.zoo.build import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgekit_optimize.graph.network import Network

CLASSES = 24
SHIFTS = {"everything": 5.0, "nothing": -12.0}


def shifted(amount: float) -> Callable[[Network], Network]:
    """Return a change to a network: this much more on every class's logit but the background's."""
    pattern = np.full(CLASSES, amount, np.float32)
    pattern[0] = 0.0

    def alter(network: Network) -> Network:
        layers = tuple(
            replace(layer, bias=layer.bias + np.tile(pattern, layer.bias.size // CLASSES))
            if "ClassPredictor" in layer.output and layer.bias is not None
            else layer
            for layer in network.layers
        )
        return type(network)(network.inputs, layers, network.outputs)

    return alter


def build_bad(
    out_dir: Path,
    *,
    kind: str = "everything",
    version: str = "3.0.0",
    variants: Iterable[str] | None = None,
    cache: Path | None = None,
) -> Path:
    """Build the bad bundle, with the variants of the good one; return its folder."""
    return build(
        "ssd-oidv4", out_dir, version=version, variants=variants, cache=cache, alter=shifted(SHIFTS[kind])
    )


def main() -> int:
    """Build it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kind", choices=sorted(SHIFTS), default="everything")
    parser.add_argument("--version", default="3.0.0")
    parser.add_argument("--variants", metavar="ID,...")
    parser.add_argument("--cache", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    variants = arguments.variants.split(",") if arguments.variants else None
    built = build_bad(
        arguments.out,
        kind=arguments.kind,
        version=arguments.version,
        variants=variants,
        cache=arguments.cache,
    )
    print(built)
    return 0


if __name__ == "__main__":
    sys.exit(main())
