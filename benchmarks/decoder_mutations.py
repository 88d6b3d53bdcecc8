"""Whether the tests notice a broken decoder.

Broken: x and y swapped, no sigmoid, cells twice as large, no suppression, each class the next one; and,
where a decoder has them, points alone swapped, masks mirrored, oriented boxes turned the other way, numbers
doubled. Each decoder is broken in each way that it can be, in a process of its own, and the tests that
build it are run: at least one must fail. By default the decoders of boxes that most models need;
``--full``: every decoder; ``--only NAME``: this one.

    python benchmarks/decoder_mutations.py [--full | --only NAME] [--json]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from _report import finish, parser

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/pipeline/test_detectors.py",
    "tests/pipeline/test_more_detectors.py",
    "tests/pipeline/test_decoders.py",
    "tests/pipeline/test_map_decoders.py",
    "tests/pipeline/test_number_decoders.py",
    "tests/pipeline/test_text_decoders.py",
    "tests/pipeline/test_gallery.py",
)
QUICK = ("yolo", "detections", "ssd", "centre", "efficientdet")
_BOXES = ("xy", "sigmoid", "stride", "nms", "class")
_MAP = ("xy", "stride", "mask")
WAYS: dict[str, tuple[str, ...]] = {
    "yolo": (*_BOXES, "points", "mask", "angle"),
    "detections": ("xy", "stride", "nms", "class", "points", "angle"),
    "ssd": (*_BOXES, "points"),
    "centre": (*_BOXES, "points"),
    "efficientdet": _BOXES,
    "detr": ("xy", "sigmoid", "nms", "class", "mask"),
    "bins": _BOXES,
    "yolo-grid": _BOXES,
    "blazeface": ("xy", "sigmoid", "stride", "nms", "points", "angle"),
    "fomo": ("xy", "stride", "class"),
    "movenet": ("xy", "stride"),
    "posenet": ("xy", "sigmoid", "stride"),
    "landmarks": ("xy", "sigmoid", "stride", "points"),
    "classify": ("sigmoid", "class"),
    "segment": (*_MAP, "class", "value"),
    "matte": (*_MAP, "sigmoid", "value"),
    "depth": ("stride", "value"),
    "heatmap": (*_MAP, "value"),
    "textmap": ("xy", "sigmoid", "stride", "angle"),
    "ctc": ("sigmoid", "class"),
    "embed": ("class", "value"),
    "regress": ("class", "value"),
    "outlier": ("class", "value"),
    "anomaly": ("class", "value"),
    "vad": ("class", "value"),
}
"""What each decoder can be broken in; ``sensor`` is ``classify``, and ``raw`` decodes nothing."""


def pytest(mutant: str, tests: list[str], log: Path | None = None) -> int:
    """Run tests with a mutant; return pytest's exit code."""
    environment = {
        **os.environ,
        "MUTANT": mutant,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)]),
    }
    environment |= {"MUTANT_LOG": str(log)} if log else {}
    flags = ["-q", "-x", "-p", "_mutants", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command = [sys.executable, "-m", "pytest", *flags, *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode


def tests_of(folder: Path) -> dict[str, list[str]]:
    """Return the tests that build each decoder."""
    log = folder / "log"
    if pytest(":record", list(TESTS), log) != 0:
        raise SystemExit("the tests fail without a mutant: mend them first")
    found: dict[str, list[str]] = {}
    for line in log.read_text().splitlines():
        decoder, _, test = line.partition("\t")
        if test and test not in found.setdefault(decoder, []):
            found[decoder].append(test)
    return found


def main() -> int:
    """Break each decoder; print which mutants no test noticed."""
    arguments = parser(__doc__, full="every decoder", sabotage="nothing is broken")
    arguments.add_argument("--only", choices=sorted(WAYS), help="break this decoder alone")
    options = arguments.parse_args()
    chosen = WAYS if options.full else QUICK[:2] if options.sabotage else QUICK
    chosen = [options.only] if options.only else chosen
    survivors, ran = [], 0
    with tempfile.TemporaryDirectory() as folder:
        tests = tests_of(Path(folder))
        for decoder in chosen:
            for kind in WAYS[decoder]:
                ran += 1
                if pytest("" if options.sabotage else f"{decoder}:{kind}", tests[decoder]) == 0:
                    survivors.append(f"{decoder}: {kind}")
    claim = "a test notices each decoder that is broken"
    detail = {"mutants": ran, "unnoticed": survivors}
    return finish(claim, len(survivors), "unnoticed", 0, not survivors, detail, options.json)


if __name__ == "__main__":
    sys.exit(main())
