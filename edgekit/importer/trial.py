"""Runs files and variants in child processes, on pictures, and returns their answers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.base.child import Child, ChildFault
from edgekit.core.errors import EdgekitError, InferenceError
from edgekit.importer.model_file import Image, ModelFile
from edgekit.model.bundle import BARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT_S = 300.0
_USUAL_SIZE = 640
Answers = Mapping[str, tuple["NDArray[Any]", ...]]


@dataclass(frozen=True)
class VariantAnswers:
    """What one variant of a bundle answered on the pictures, in their order.

    ``inputs`` and ``outputs``: logical tensors as golden samples hold them. ``items``: decoded, as built-ins.
    """

    inputs: Answers = field(default_factory=dict)
    outputs: Answers = field(default_factory=dict)
    items: Sequence[Sequence[dict[str, Any]]] = ()


def image_size(file: ModelFile) -> tuple[tuple[int, int], str]:
    """Return an image's (height, width) in pixels, and where it comes from; (0, 0) without an image."""
    image = file.image()
    if image is None:
        return (0, 0), ""
    if image.height > 0 and image.width > 0:
        return (image.height, image.width), "signature"
    for value, source in ((file.flags.get("size"), "flag"), (file.metadata.get("imgsz"), "metadata")):
        if value:
            sides = [value, value] if isinstance(value, int) else list(value)
            return _known(image, int(sides[0]), int(sides[-1])), source
    return _known(image, _USUAL_SIZE, _USUAL_SIZE), "assumed"


def _known(image: Image, height: int, width: int) -> tuple[int, int]:
    """Return a size with the side that the file fixes."""
    return (image.height if image.height > 0 else height, image.width if image.width > 0 else width)


def fixed_shapes(file: ModelFile) -> dict[str, list[int]]:
    """Return ``options.shapes`` for an image input whose size the file leaves free; empty otherwise."""
    image = file.image()
    if image is None or min(image.height, image.width, image.channels) > 0:
        return {}
    (height, width), _ = image_size(file)
    sides = [image.channels, height, width] if image.layout == "NCHW" else [height, width, image.channels]
    batch = [max(image.tensor.shape[0], 1)] if len(image.tensor.shape) > len(sides) else []
    return {image.tensor.name: [*batch, *sides]}


def try_file(file: ModelFile, pictures: Sequence[NDArray[np.uint8]]) -> tuple[ModelFile, dict[str, str]]:
    """Run a file on pictures by the first runtime that can; return it with its answers, and each refusal.

    The inputs and outputs are then those that the runtime reports, and ``tried`` is empty if none ran it.
    """
    refusals: dict[str, str] = {}
    for backend in BARE[file.path.suffix.lower()]:
        if backend in file.miscomputed:
            refusals[backend] = file.miscomputed[backend]
            continue
        task = {
            "file": str(file.path),
            "backend": backend,
            "precision": file.precision,
            "shapes": fixed_shapes(file),
        }
        try:
            _, arrays = _run(task, pictures)
        except EdgekitError as error:
            refusals[backend] = error.one_line()
            continue
        return replace(file, tried=_by_name(arrays, ":")), refusals
    return file, refusals


def try_variant(
    root: Path, variant: str, pictures: Sequence[NDArray[np.uint8]], *, keep: int = 16
) -> VariantAnswers:
    """Run a variant of the bundle in a folder on pictures, without its golden samples.

    The tensors of the first ``keep`` pictures are returned; the items of all.

    Raises:
        EdgekitError: It cannot be opened, fails, crashes or hangs.
    """
    answer, arrays = _run({"bundle": str(root), "variant": variant, "keep": keep}, pictures)
    return VariantAnswers(_by_name(arrays, "@"), _by_name(arrays, ":"), answer["items"])


def _run(
    task: dict[str, Any], pictures: Sequence[NDArray[np.uint8]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with tempfile.TemporaryDirectory(prefix="edgekit-import-") as folder:
        given, out = Path(folder) / "pictures.npz", Path(folder) / "out.npz"
        np.savez(given, *pictures)
        try:
            with Child("edgekit.importer.trial_child", log=subprocess.DEVNULL) as child:
                request = task | {"pictures": str(given), "out": str(out)}
                answer = child.ask(request, dict[str, Any], TIMEOUT_S)
        except ChildFault as fault:
            raise InferenceError(f"tried in a process of its own, it {fault}") from fault
        if not out.is_file():
            return answer, {}
        with np.load(out, allow_pickle=False) as archive:
            return answer, {name: archive[name] for name in archive.files}


def _by_name(arrays: Mapping[str, NDArray[Any]], mark: str) -> dict[str, tuple[NDArray[Any], ...]]:
    rows: dict[str, list[NDArray[Any]]] = {}
    for key, array in arrays.items():
        number, found, name = key.partition(mark)
        if found and number.isdigit():
            rows.setdefault(name, []).append(array)
    return {name: tuple(row) for name, row in rows.items()}
