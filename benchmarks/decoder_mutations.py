"""Whether the tests notice a broken decoder.

Broken: x and y swapped, no sigmoid, cells twice as large, no suppression, each class the next one. Each
decoder is broken in each way that it can be, in a process of its own, and the tests that build it are run: at
least one must fail. By default the decoders of boxes that most models need; ``--full``: all of boxes,
keypoints and classes.

    python benchmarks/decoder_mutations.py [--full] [--json]
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
)
KINDS = ("xy", "sigmoid", "stride", "nms", "class")
QUICK = ("yolo", "detections", "ssd", "centre", "efficientdet")
CANNOT = {
    "detections": ("sigmoid",),
    "detr": ("stride",),
    "fomo": ("sigmoid", "nms"),
    "movenet": ("sigmoid", "nms", "class"),
    "posenet": ("nms", "class"),
    "blazeface": ("class",),
    "centre": (),
    "classify": ("xy", "stride", "nms"),
}
"""What a decoder does not have: suppression, a sigmoid, more than one class, or places."""
ALL = (*QUICK, "detr", "bins", "yolo-grid", "blazeface", "fomo", "movenet", "posenet", "classify")


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
    options = parser(__doc__, full="every decoder", sabotage="nothing is broken").parse_args()
    survivors, ran = [], 0
    with tempfile.TemporaryDirectory() as folder:
        tests = tests_of(Path(folder))
        for decoder in ALL if options.full else QUICK[:2] if options.sabotage else QUICK:
            for kind in KINDS:
                if kind in CANNOT.get(decoder, ()):
                    continue
                ran += 1
                if pytest("" if options.sabotage else f"{decoder}:{kind}", tests[decoder]) == 0:
                    survivors.append(f"{decoder}: {kind}")
    claim = "a test notices each decoder that is broken"
    detail = {"mutants": ran, "unnoticed": survivors}
    return finish(claim, len(survivors), "unnoticed", 0, not survivors, detail, options.json)


if __name__ == "__main__":
    sys.exit(main())
