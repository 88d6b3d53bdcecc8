# ruff: noqa: INP001 - a user's folder, no package
"""Sort a folder of pictures by what a classifier sees; what it is unsure of is left for you.

edgekit zoo build efficientnet-lite0 -o .
python sort.py efficientnet-lite0-1.0.0 pictures/ sorted/
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import edgekit

SURE = 0.6


def main(bundle: str, pictures: str, out: str) -> dict[str, int]:
    """Copy each picture into a folder of its label, or into ``unsure``; return how many went where."""
    counts: dict[str, int] = {}
    with edgekit.load(bundle) as model:
        for picture in sorted(Path(pictures).iterdir()):
            best = model.predict(picture).best
            label = best.label if best is not None and (best.score or 0) >= SURE else "unsure"
            target = Path(out) / label
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
            counts[label] = counts.get(label, 0) + 1
    for label, count in sorted(counts.items()):
        print(f"{label}: {count}")
    return counts


if __name__ == "__main__":
    main(*sys.argv[1:])
