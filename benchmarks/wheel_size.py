"""How much Python a device installs, and that nothing of the workstation is in it.

    python benchmarks/wheel_size.py [--json]

Builds the device's wheel with pip, counts the bytes of its Python files by package, and looks for what
does not belong there: modules of the compression kit or of the fleet, and data of the zoo's recipes. The
yardstick is the wheel before the kit became a distribution of its own: 1,918,935 bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from _report import finish, parser

ROOT = Path(__file__).resolve().parent.parent
BAR = 1_060_000
BEFORE = 1_918_935
FOREIGN = ("edgekit_optimize/", "edgekit_fleet/", "edgekit/optimize/", "edgekit/zoo/")
PLANTED = ROOT / "optimize" / "edgekit_optimize" / "run" / "run.py"


def main() -> int:
    """Build, count, and hold the count against the bar."""
    arguments = parser(
        __doc__, full="the same: it takes seconds", sabotage="a module of the compression kit is in the wheel"
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (wheel,) = Path(folder).glob("edgekit_runtime-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    if arguments.sabotage:
        sizes[str(PLANTED.relative_to(ROOT / "optimize"))] = PLANTED.stat().st_size
    python = {name: size for name, size in sizes.items() if name.endswith(".py")}
    foreign = sorted(name for name in sizes if name.startswith(FOREIGN) or is_of_a_recipe(name))
    packages: Counter[str] = Counter()
    for name, size in python.items():
        packages[".".join(name.split("/")[:2]).removesuffix(".py")] += size
    total = sum(python.values())
    detail = {
        "packages": dict(packages.most_common()),
        "files": len(python),
        "does_not_belong": foreign,
        "bytes_before": BEFORE,
        "ratio_to_before": round(total / BEFORE, 3),
    }
    claim = "the device's wheel has no module of the workstation, and little Python"
    return finish(claim, total, "bytes", BAR, total <= BAR and not foreign, detail, arguments.json)


def is_of_a_recipe(name: str) -> bool:
    """Return whether a file belongs to a model of the zoo."""
    return "/models/" in f"/{name}" or Path(name).name in ("recipe.toml", "card.md")


if __name__ == "__main__":
    sys.exit(main())
