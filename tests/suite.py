"""The whole suite; a file that fails is run again, alone: ``python tests/suite.py [PYTEST_ARGUMENTS...]``.

Thousands of tests, many with processes and brokers, share two cores that others use too. A file whose tests
fail there and pass alone, in a process of its own, is *unsteady*: it says nothing of the change at hand. It
is named at the end, where nobody can overlook it, with its failures above, and has to be mended as any
fault; more than ``MOST_UNSTEADY`` of them fail the run (docs/decisions/0017). The file is run whole: tests of
a shared stage stand on those before them, and one that fails takes those after it along.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILED = ROOT / ".pytest_cache" / "v" / "cache" / "lastfailed"
"""pytest's own record: the tests that failed in any of their phases and have not passed since."""
MOST_UNSTEADY = 3
"""Files."""
TESTS_FAILED = 1
"""pytest's exit code; with any other there is nothing to run again."""


def pytest(*arguments: str) -> int:
    """Run pytest and return its exit code."""
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, check=False).returncode


def run(arguments: list[str]) -> int:
    """Run the suite, and each file with a failure once more; return the exit code."""
    FAILED.unlink(missing_ok=True)
    code = pytest(*arguments)
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    files = sorted({name.partition("::")[0] for name in failed})
    if code != TESTS_FAILED or not 0 < len(files) <= MOST_UNSTEADY:
        return code
    print(f"\n{len(failed)} failed; their files once more, alone:", flush=True)
    if again := pytest(*files):
        return again
    print("\nUNSTEADY: failed among the others, passed alone; each is a fault to be mended:")
    print("\n".join(f"  {name}" for name in failed))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
