"""The structure of the code as a table: ``python tests/house.py [--json]``.

One row for each package: lines, files, median and 95th percentile of the lines of its functions'
bodies, and how many imports cross its border in and out. ``test_house.py`` holds rules on the same data.
"""

from __future__ import annotations

import ast
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOTS = {
    "edgekit": ROOT / "edgekit",
    "edgekit_optimize": ROOT / "optimize" / "edgekit_optimize",
    "edgekit_fleet": ROOT / "fleet" / "edgekit_fleet",
}


@dataclass
class Module:
    """One Python file: its dotted name, its tree, and the modules of this repository it imports."""

    name: str
    path: Path
    text: str
    tree: ast.Module
    imports: set[str] = field(default_factory=set)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


def read_house() -> dict[str, Module]:
    """Return every module of the three distributions by its dotted name, with its imports.

    Imports inside functions and below ``TYPE_CHECKING`` count like all others.
    """
    modules: dict[str, Module] = {}
    for root, folder in ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            if "tenants" in path.parts:  # run by another Python; imports nothing of ours
                continue
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            modules[name] = Module(name, path, text, ast.parse(text))
        assert root in modules
    for module in modules.values():
        module.imports = _imports(module, modules)
    return modules


def _imports(module: Module, modules: dict[str, Module]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found |= {full} if full in modules else {base} & modules.keys()
    return found - {module.name}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return each strongly connected component of more than one node, sorted.

    Source: Tarjan, "Depth-first search and linear graph algorithms", 1972.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                found.append(component)

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return found


def sibling_arrows(modules: dict[str, Module]) -> dict[str, dict[str, set[str]]]:
    """Return, for each package, the arrows between what stands directly in it (modules and packages).

    An import of ``edgekit.agent.ipc`` by ``edgekit.agent.worker.worker`` is an arrow from ``worker`` to
    ``ipc`` in ``edgekit.agent``, and none in ``edgekit``. A package's ``__init__`` is part of the package.
    """
    rooms: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module in modules.values():
        for target in module.imports:
            mine, theirs = module.name.split("."), target.split(".")
            depth = 0
            while depth < min(len(mine), len(theirs)) and mine[depth] == theirs[depth]:
                depth += 1
            if 0 < depth < len(mine) and depth < len(theirs):
                rooms[".".join(mine[:depth])][mine[depth]].add(theirs[depth])
    return rooms


def body_lines(module: Module) -> list[tuple[str, int]]:
    """Return each function of a module with the lines of its body, its docstring left out."""
    rows: list[tuple[str, int]] = []
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                body = body[1:]
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            rows.append((f"{module.name}:{node.name}", lines))
    return rows


def package_of(module: Module) -> str:
    """Return the room of a module: its distribution's first or second level of packages."""
    parts = module.name.split(".")
    if not module.is_package:
        parts = parts[:-1]
    return ".".join(parts[:3])


def table(modules: dict[str, Module]) -> list[dict[str, object]]:
    """Return one row for each package."""
    rooms: dict[str, list[Module]] = defaultdict(list)
    for module in modules.values():
        rooms[package_of(module)].append(module)
    into: dict[str, int] = defaultdict(int)
    out: dict[str, int] = defaultdict(int)
    for module in modules.values():
        for target in module.imports:
            here, there = package_of(module), package_of(modules[target])
            if here != there:
                out[here] += 1
                into[there] += 1
    rows: list[dict[str, object]] = []
    for room, members in sorted(rooms.items()):
        bodies = sorted(lines for member in members for _, lines in body_lines(member)) or [0]
        rows.append(
            {
                "package": room,
                "lines": sum(member.text.count("\n") for member in members),
                "files": len(members),
                "median_body": statistics.median(bodies),
                "p95_body": bodies[min(len(bodies) - 1, int(len(bodies) * 0.95))],
                "in": into[room],
                "out": out[room],
            }
        )
    return rows


def main(arguments: list[str]) -> int:
    """Print the table, as text or as one JSON document."""
    rows = table(read_house())
    if "--json" in arguments:
        print(json.dumps(rows))
        return 0
    names = list(rows[0])
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    for line in [dict(zip(names, names, strict=True)), *rows]:
        cells = [str(line[name]) for name in names]
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        print("  ".join([first, *rest]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
