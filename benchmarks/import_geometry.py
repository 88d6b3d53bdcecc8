"""How often labelled pictures decide wrongly how a detector's pictures are brought to size.

``--data FOLDER`` holds ``index.json`` (as for ``import_any.py``) with its files, and beside it
``detection/coco_train128`` with pictures and labels. Each detector of COCO's classes is imported without a
picture: its family's rule or its metadata say letterbox or stretch, and that is taken as right, as
``import_any.py --full`` shows. Then it sees all pictures both ways, and draws of 8 to 64 pictures are judged
as ``edgekit import --try`` judges them. The bar: at the least number that may decide, at most one draw in a
hundred says the other way.

    python benchmarks/import_geometry.py --data FOLDER [--only TEXT] [--json]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from _report import finish, parser

from edgekit.core.errors import EdgekitError
from edgekit.importer import settle
from edgekit.importer.build import write_manifest
from edgekit.importer.importing import import_model
from edgekit.importer.labelled import agreement
from edgekit.importer.pictures import Pictures, read_pictures
from edgekit.importer.trial import try_variant

BAR = 0.01
DRAWS = 2000
COUNTS = (8, 16, 32, 64)
LABELS = 80
GEOMETRIES = ("letterbox", "stretch")


def main() -> int:
    """Measure, print, return the exit code."""
    options = parser(__doc__, full="nothing more", sabotage="whatever is better by anything decides")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--only", default="", help="files whose path has this text")
    given = options.parse_args()
    errors = 0.0 if given.sabotage else settle.ERRORS
    folder = given.data.parent / "detection" / "coco_train128" / "images"
    pictures = read_pictures(folder, labels=True)
    detail: dict[str, Any] = {}
    for row in json.loads((given.data / "index.json").read_text("utf-8"))["models"]:
        if given.only in row["file"] and (found := differences(given.data / row["file"], row, pictures)):
            own, pairs = found
            detail[row["file"]] = {"is": own, "pictures": len(pairs)} | judged(pairs, errors)
            print(row["file"], detail[row["file"]], file=sys.stderr, flush=True)
    at = str(settle.GEOMETRY_PICTURES)
    worst = max((row[at]["wrong"] for row in detail.values()), default=1.0)
    claim = f"draws of {at} labelled pictures on which the wrong geometry is taken, of the worst detector"
    return finish(claim, worst, "of the draws", BAR, worst <= BAR, detail, given.json)


def differences(file: Path, row: dict[str, Any], pictures: Pictures) -> tuple[str, Any] | None:
    """Return the right geometry, and by how much it meets each picture's labels better; None: no detector."""
    with tempfile.TemporaryDirectory() as name:
        try:
            made = import_model(file, Path(name) / "bundle", flags=row.get("args") or {})
        except EdgekitError:
            return None
        manifest = made.manifest
        own = manifest.pre.resize
        labels = [f for f in manifest.provenance.conclusions if f.key == "labels"]
        is_coco = bool(labels) and len(labels[0].value or ()) == LABELS
        if manifest.task != "detect" or own not in GEOMETRIES or not is_coco:
            return None
        rows = {}
        for resize in GEOMETRIES:
            pre = msgspec.structs.replace(manifest.pre, resize=resize)
            changed = settle.with_threshold(msgspec.structs.replace(manifest, pre=pre), settle.LOW)
            write_manifest(made.path, changed)
            seen = try_variant(made.path, manifest.variants[0].id, pictures.pixels, keep=0).items
            rows[resize] = [agreement(i, t) for i, t in zip(seen, pictures.truth, strict=True) if t]
    other = GEOMETRIES[1 - GEOMETRIES.index(own)]
    return own, np.array(rows[own]) - np.array(rows[other])


def judged(pairs: Any, errors: float) -> dict[str, Any]:
    """Return, by number of pictures, the shares of draws that say the right, the wrong, and nothing."""
    random = np.random.default_rng(0)
    shares = {}
    for count in COUNTS:
        draws = [random.choice(pairs, count, replace=False) for _ in range(DRAWS)]
        margins = np.array([settle.better_by(draw.tolist(), [0.0] * count) for draw in draws])
        right, wrong = float((margins > errors).mean()), float((margins < -errors).mean())
        shares[str(count)] = {"right": right, "wrong": wrong, "open": round(1 - right - wrong, 4)}
    return shares


if __name__ == "__main__":
    sys.exit(main())
