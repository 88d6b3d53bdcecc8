"""What ``edgekit import`` makes of the files that users bring, against an index of weights.

``--data FOLDER`` holds ``index.json`` (files with the outcome that each must have, the flags to ask for, and
what each must see on which runtime) and the files; inputs are below its parent. A file is *recognised* when
it imports without flags and sees what it must on every runtime listed as right; *ask* when it is asked back
(exit 4) and is right with the index's flags; *refuse* when it is refused with the names that the index wants.
An import that gives a bundle which sees something else is *wrong*: the bar is none. So is a copy of a file
under another name that answers otherwise, and one without metadata that does, unless it is asked back.

By default the files of ``QUICK``, one for each way to be right. ``--full``: all files, every copy of them,
every detector's AP50 within a point of the index on every runtime listed as right, and a YOLOv5 without
metadata tried on single pictures.

Some inputs are pictures of scikit-image; without that package their checks count as not seen.

    python benchmarks/import_any.py --data FOLDER [--only TEXT] [--full] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _foreign import ap50, imported, renamed, single_pictures, stripped, sweep
from _must_see import CHECKS
from _report import finish, parser

import edgekit
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Prediction

LEAST_RECOGNISED = 19
QUICK = (
    "yolov8/yolov8n_full_integer_quant_416_eron.tflite",
    "yolo_pose/yolo11n_pose_int8_boo.tflite",
    "nanodet/nanodet_2022nov_int8_zoo.onnx",
    "picodet/picodet_xs_320_postprocessed.onnx",
    "blaze/blazeface_front_128_openmv.tflite",
    "fomo/fomo_person_mnv2_int8_f71b.tflite",
    "posenet/posenet_mnv1_075_353_481_quant_decoder.tflite",
    "reid/osnet_x0_25_msmt17_czq.onnx",
    "tabular/logreg_iris.onnx",
    "audio/silero_vad_16k_op15.onnx",
)
_AP_TOLERANCE = 0.01
_SINGLE = "yolov5/yolov5n_int8_pine.tflite"
_SWEPT_PICTURES = 2
_NO_ARITHMETIC = "this CPU lacks the arithmetic"
Row = dict[str, Any]


class Skewed:
    """A model whose boxes, points and scores are wrong: the planted fault."""

    def __init__(self, model: Any) -> None:
        self._model, self.manifest = model, model.manifest

    def predict(self, data: Any) -> Prediction:
        """Return the prediction with its scores halved and its labels lost."""
        import msgspec

        seen = self._model.predict(data)
        items = tuple(
            msgspec.structs.replace(item, label="", score=(item.score or 0) / 2, value=None, vector=())
            for item in seen.items
        )
        return msgspec.structs.replace(seen, items=items, tensors={})


@dataclass(frozen=True)
class Case:
    """One file of the index, where it and its bundles are, and how deeply it is checked."""

    row: Row
    data: Path
    folder: Path
    given: argparse.Namespace
    ap: dict[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The file; the index counts some from the folder of weights, some from its parent."""
        below = self.data / "weights" / self.row["file"]
        return below if below.is_file() else self.data / self.row["file"]

    @property
    def checks(self) -> list[Row]:
        """What it must see."""
        checks = self.row["must_see"]
        return checks if isinstance(checks, list) else [checks]

    def problems(self, made: Any, flags: Row | None) -> dict[str, list[str]]:
        """Return what a bundle sees wrongly, by runtime or sweep."""
        found = self._runtimes(made)
        pictures = [check["input"] for check in self.checks if "input" in check and check["task"] != "audio"]
        for change in () if self.given.sabotage else (renamed, stripped):
            swept = sweep(change, self.file, flags, made, pictures[:_SWEPT_PICTURES], self.data)
            found[change.__name__] = swept
        return {name: problems for name, problems in found.items() if problems}

    def _runtimes(self, made: Any) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        variants = {v.backend: v.id for v in made.manifest.variants}
        for runtime, verdict in (self.row.get("runtimes") or {}).items():
            if verdict == "right" and runtime not in variants:
                excluded = made.manifest.provenance.excluded
                why = {name: text for name, text in excluded.items() if name.startswith(runtime)}
                # the index was measured on a CPU that has the arithmetic of int8 layers
                is_by_cpu = any(_NO_ARITHMETIC in text for text in why.values())
                found[runtime] = [] if is_by_cpu else [f"left out: {why}"]
            elif verdict == "right":
                found[runtime] = self._seen(made.path, variants[runtime])
                if self.given.full and self.row.get("ap50_train128") is not None:
                    found[runtime] += self._precise(made, runtime, variants[runtime])
            elif runtime in variants:
                found[runtime] = ["is wrong, and was not left out"]
        return found

    def _seen(self, path: Path, variant: str) -> list[str]:
        found = []
        by_threshold: dict[float | None, list[Row]] = {}
        for check in self.checks:
            threshold = min(check.get("threshold", 1.0), check.get("extras_below", 1.0))
            by_threshold.setdefault(threshold if threshold < 1 else None, []).append(check)
        for threshold, checks in by_threshold.items():
            found += self._at(path, variant, threshold, checks)
        return found

    def _at(self, path: Path, variant: str, threshold: float | None, checks: list[Row]) -> list[str]:
        found = []
        try:
            with edgekit.load(path, variant=variant, score_threshold=threshold) as model:
                shown = Skewed(model) if self.given.sabotage else model
                for check in checks:
                    seen = CHECKS[check["task"]](shown, check, self.data)
                    found += [f"{check.get('input')}: {problem}" for problem in seen]
        except (EdgekitError, ImportError, LookupError, AttributeError, TypeError, ValueError) as error:
            return [f"{[check.get('input') for check in checks]}: {type(error).__name__}: {error}"]
        return found

    def _precise(self, made: Any, runtime: str, variant: str) -> list[str]:
        labels = (made.path / made.manifest.labels).read_text("utf-8").splitlines()
        value = ap50(made.path, variant, self.data, labels)
        wanted = (self.row.get("ap50_runtimes") or {}).get(runtime, self.row["ap50_train128"])
        self.ap[f"{self.row['file']} {runtime}"] = [round(value, 4), wanted]
        return [f"AP50 {value:.4f} for {wanted}"] if abs(value - wanted) > _AP_TOLERANCE else []

    def outcome(self) -> Row:
        """Return what became of the file: its outcome, whether the index says so, and what is wrong."""
        wanted = self.row["outcome"]
        made = imported(self.file, self.folder, None)
        if not isinstance(made, EdgekitError):
            problems = self.problems(made, None)
            got = "wrong" if problems else "recognised"
            # an importer that is right where the index would ask is right
            return self._row(got, got == "recognised" and wanted != "refuse", problems, made)
        text = made.render()
        if wanted == "refuse":
            missing = [name for name in self.checks[0]["names"] if name not in text]
            return self._row("refuse", not missing, {"error": [text] if missing else []}, None)
        if wanted == "recognised":
            fits = self.row.get("also") == "refuse"
            return self._row("refuse" if fits else "not recognised", fits, {"error": [text]}, None)
        made = imported(self.file, self.folder, self.row["args"])
        if isinstance(made, EdgekitError):
            return self._row("ask failed", False, {"error": [made.render()]}, None)
        problems = self.problems(made, self.row["args"])
        return self._row("wrong" if problems else "ask", not problems, problems, made)

    def _row(self, got: str, fits: bool, problems: dict[str, list[str]], made: Any) -> Row:
        return {
            "file": self.row["file"],
            "wanted": self.row["outcome"],
            "got": got,
            "fits": fits,
            "family": made.manifest.provenance.family if made else "",
            "excluded": made.manifest.provenance.excluded if made else {},
            "problems": {key: value[:4] for key, value in problems.items() if value},
        }


def singles(data: Path, given: argparse.Namespace) -> list[str]:
    """Return what single pictures make of a YOLOv5 without metadata, with ``--full``."""
    if not given.full or given.only not in _SINGLE:
        return []
    pictures = sorted((data / "detection" / "coco_train128" / "images").glob("*.jpg"))
    return single_pictures(data / "weights" / _SINGLE, pictures[: given.pictures])


def main() -> int:
    """Import the files of the index and print the outcome."""
    arguments = parser(
        __doc__, full="every file, AP50, single pictures", sabotage="labels lost, scores halved"
    )
    arguments.add_argument("--data", type=Path, help="the folder with index.json")
    arguments.add_argument("--only", default="", help="only the files whose path has this text")
    arguments.add_argument("--pictures", type=int, default=8, help="single pictures of --full")
    given = arguments.parse_args()
    if given.data is None:
        print("--data FOLDER is needed: no weights of others are in this repository", file=sys.stderr)
        return 2
    logging.getLogger("edgekit").setLevel(logging.ERROR)
    rows = json.loads((given.data / "index.json").read_text("utf-8"))["models"]
    is_quick = not given.full and not given.only
    rows = [row for row in rows if given.only in row["file"] and (not is_quick or row["file"] in QUICK)]
    results, precisions = [], dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("EDGEKIT_CACHE", str(Path(folder) / "cache"))
        for row in rows:
            results.append(Case(row, given.data.parent, Path(folder), given, precisions).outcome())
            if not given.json:
                print(json.dumps(results[-1], ensure_ascii=False), flush=True)
        turned = singles(given.data.parent, given)
    wrong = sum(row["got"] == "wrong" for row in results) + len(turned)
    recognised = sum(row["got"] == "recognised" and row["fits"] for row in results)
    fits = sum(row["fits"] for row in results)
    due = sum(row["outcome"] == "recognised" and row.get("also") != "refuse" for row in rows)
    holds = wrong == 0 and recognised >= min(LEAST_RECOGNISED, due) and fits == len(results)
    detail = {
        "recognised": recognised,
        "as the index says": fits,
        "files": len(results),
        "runtimes left out on this CPU": [
            f"{row['file']} {name}"
            for row in results
            for name, text in row["excluded"].items()
            if _NO_ARITHMETIC in text
        ],
        "single pictures": turned,
        "AP50 [here, index]": precisions,
        "not": [row for row in results if not row["fits"]],
    }
    return finish("files that users bring are read rightly", wrong, "wrong", 0, holds, detail, given.json)


if __name__ == "__main__":
    sys.exit(main())
