# ruff: noqa: INP001 - a user's folder, no package
"""Score the rows of a CSV file with a model of scikit-learn, LightGBM or XGBoost.

edgekit import model.onnx -o model.bundle header=[length,width]
python score.py model.bundle flowers.csv scored.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import edgekit


def main(bundle: str, table: str, out: str) -> list[str]:
    """Write the table with a column ``label`` and one ``score``; return the labels."""
    with Path(table).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = []
    with edgekit.load(bundle) as model, Path(out).open("w", encoding="utf-8", newline="") as file:
        known = [column.name for column in model.manifest.pre.columns]
        writer = csv.DictWriter(file, [*rows[0], "label", "score"])
        writer.writeheader()
        for row in rows:
            best = model.predict({name: float(row[name]) for name in known}).items[0]
            writer.writerow(row | {"label": best.label, "score": f"{best.score:.3f}"})
            labels.append(best.label)
    print(f"{out}: {len(labels)} rows")
    return labels


if __name__ == "__main__":
    main(*sys.argv[1:])
