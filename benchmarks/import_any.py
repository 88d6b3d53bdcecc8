"""What ``edgekit import`` makes of the files that users bring, against an index of weights.

``--data FOLDER`` holds ``index.json`` (files with the outcome that each must have, the flags to ask for, and
what each must see on which runtime) and the files; inputs are below its parent. A file is *recognised* when
it imports without flags and sees what it must on every runtime listed as right; *ask* when it is asked back
(exit 4) and is right with the index's flags; *refuse* when it is refused with the names that the index wants.
An import that gives a bundle which sees something else is *wrong*: the bar is none.

Some inputs are pictures of scikit-image; without that package their checks count as not seen.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from _must_see import CHECKS
from _report import finish, parser

import edgekit
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Prediction
from edgekit.importer.importing import import_model

LEAST_RECOGNISED = 19


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


def attempt(row: dict[str, Any], data: Path, folder: Path, args: dict[str, Any] | None) -> tuple[str, Any]:
    """Return ("bundle", path), or ("refused", error)."""
    file = data / "weights" / row["file"] if not (data / row["file"]).is_file() else data / row["file"]
    target = folder / (Path(row["file"]).name + (".asked" if args else ""))
    try:
        return "bundle", import_model(file, target, flags=args or {})
    except EdgekitError as error:
        return "refused", error


def judged(row: dict[str, Any], imported: Any, data: Path, *, sabotage: bool) -> dict[str, list[str]]:
    """Return, for each runtime that must be right, what it sees wrongly; wrong runtimes must be left out."""
    problems: dict[str, list[str]] = {}
    variants = {v.backend: v.id for v in imported.manifest.variants}
    checks = row["must_see"] if isinstance(row["must_see"], list) else [row["must_see"]]
    for runtime, verdict in (row.get("runtimes") or {}).items():
        if verdict == "right" and runtime not in variants:
            why = {k: v for k, v in imported.manifest.provenance.excluded.items() if k.startswith(runtime)}
            problems[runtime] = [f"left out: {why}"]
        elif verdict != "right" and runtime in variants:
            problems[runtime] = ["is wrong, and was not left out"]
        elif verdict == "right":
            problems[runtime] = _seen(imported.path, variants[runtime], checks, data, sabotage=sabotage)
    return {runtime: found for runtime, found in problems.items() if found}


def _seen(path: Path, variant: str, checks: list[Any], data: Path, *, sabotage: bool) -> list[str]:
    found = []
    for check in checks:
        threshold = min(check.get("threshold", 1.0), check.get("extras_below", 1.0))
        try:
            with edgekit.load(
                path, variant=variant, score_threshold=threshold if threshold < 1 else None
            ) as model:
                shown = Skewed(model) if sabotage else model
                found += [f"{check.get('input')}: {p}" for p in CHECKS[check["task"]](shown, check, data)]
        except (EdgekitError, ImportError, LookupError, AttributeError, TypeError, ValueError) as error:
            found.append(f"{check.get('input')}: {type(error).__name__}: {error}")
    return found


def outcome_of(row: dict[str, Any], data: Path, folder: Path, *, sabotage: bool) -> dict[str, Any]:
    """Return what became of one file: its outcome, and what is wrong with it."""
    wanted = row["outcome"]
    kind, result = attempt(row, data, folder, None)
    if kind == "bundle":
        problems = judged(row, result, data, sabotage=sabotage)
        got = "wrong" if problems else "recognised"
        # an importer that is right where the index would ask is right
        fits = got == "recognised" and wanted in ("recognised", "ask")
        return _row(row, got, fits, problems, result)
    if wanted == "refuse":
        text = result.render()
        names = (row["must_see"][0] if isinstance(row["must_see"], list) else row["must_see"])["names"]
        missing = [name for name in names if name not in text]
        return _row(row, "refuse", not missing, {"error": [text] if missing else []}, None)
    if wanted == "recognised":
        fits = row.get("also") == "refuse"
        return _row(row, "refuse" if fits else "not recognised", fits, {"error": [result.render()]}, None)
    kind, asked = attempt(row, data, folder, row["args"])
    if kind == "refused":
        return _row(row, "ask failed", False, {"error": [asked.render()]}, None)
    problems = judged(row, asked, data, sabotage=sabotage)
    return _row(row, "wrong" if problems else "ask", not problems, problems, asked)


def _row(row: dict[str, Any], got: str, fits: bool, problems: Any, imported: Any) -> dict[str, Any]:
    return {
        "file": row["file"],
        "wanted": row["outcome"],
        "got": got,
        "fits": fits,
        "family": imported.manifest.provenance.family if imported else "",
        "excluded": imported.manifest.provenance.excluded if imported else {},
        "problems": {key: value[:4] for key, value in problems.items() if value},
    }


def main() -> int:
    """Import every file of the index and print the outcome."""
    arguments = parser(__doc__, full="the same", sabotage="labels lost, scores halved")
    arguments.add_argument("--data", type=Path, help="the folder with index.json")
    arguments.add_argument("--only", default="", help="only the files whose path has this text")
    given = arguments.parse_args()
    if given.data is None:
        print("--data FOLDER is needed: no weights of others are in this repository", file=sys.stderr)
        return 2
    logging.getLogger("edgekit").setLevel(logging.ERROR)
    rows = json.loads((given.data / "index.json").read_text("utf-8"))["models"]
    rows = [row for row in rows if given.only in row["file"]]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("EDGEKIT_CACHE", str(Path(folder) / "cache"))
        for row in rows:
            results.append(outcome_of(row, given.data.parent, Path(folder), sabotage=given.sabotage))
            if not given.json:
                print(json.dumps(results[-1], ensure_ascii=False), flush=True)
    wrong = sum(row["got"] == "wrong" for row in results)
    recognised = sum(row["got"] == "recognised" and row["fits"] for row in results)
    fits = sum(row["fits"] for row in results)
    enough = recognised >= min(LEAST_RECOGNISED, sum(row["outcome"] == "recognised" for row in rows))
    holds = wrong == 0 and enough and fits == len(results)
    detail = {
        "recognised": recognised,
        "as the index says": fits,
        "files": len(results),
        "not": [row for row in results if not row["fits"]],
    }
    return finish("files that users bring are read rightly", wrong, "wrong", 0, holds, detail, given.json)


if __name__ == "__main__":
    sys.exit(main())
