"""Read a program saved by ``torch.export``; identify other files that torch writes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from edgekit.core.errors import ModelError
from edgekit_optimize.readers.tools import short

_BUILD = "give module:function, which builds the module and loads what it needs"


def is_program(reference: str) -> bool:
    """Return whether a reference is an exported program rather than a function that builds a module."""
    return reference.lower().endswith(".pt2")


def load_program(torch: Any, path: Path) -> tuple[Any, tuple[str, ...], tuple[Any, ...], Any]:
    """Return an exported program's module, input names, example inputs, and the program itself.

    The examples' free dimensions have the sizes that the program was exported with.

    Raises:
        ModelError: The file is not an exported program; the error says what it is.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    try:
        program = torch.export.load(str(path))
        module = program.module()
    except Exception as cause:
        raise ModelError(
            f"{path.name} is not an exported program: {content_of(path) or short(cause)}",
            hint=f"write it with torch.export.save(torch.export.export(module, inputs), path), or {_BUILD}",
        ) from cause
    names = tuple(program.graph_signature.user_inputs)
    tensors = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    example = tuple(
        torch.zeros([_size(size) for size in tensors[name].shape], dtype=tensors[name].dtype)
        for name in names
    )
    return module, names, example, program


def content_of(path: Path) -> str:
    """Return what a torch file that is not an exported program holds; empty if unknown."""
    if not zipfile.is_zipfile(path):
        return "it is not a torch archive, or it is truncated"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "it is TorchScript"
    if any(name.endswith("/data.pkl") for name in names):
        return "it was written by torch.save: weights, or a pickled module"
    return ""


def _size(size: Any) -> int:
    """Return a dimension's size at export; ``int`` of a free one would fix it in the program."""
    return size if isinstance(size, int) else int(size.node.hint)
