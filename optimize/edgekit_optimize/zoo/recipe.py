"""The zoo's recipes: their format, and where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

import edgekit_optimize
from edgekit.core.errors import UsageError
from edgekit.core.spec import (
    BackendName,
    Guards,
    Post,
    Pre,
    Precision,
    Quality,
    Requires,
    State,
    TensorSpec,
)
from edgekit.core.structure import decode_toml
from edgekit.core.tasks import task_named
from edgekit_optimize.zoo.fetch import Package

Writer = Literal["file", "tflite", "tflite-int8", "onnx", "onnx-int8", "openvino"]


class VariantRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one variant is made.

    ``writer`` "file" copies the packaged file named by ``file`` without its first ``skip`` bytes; the
    others write the model's network. Two variants with the same writer share one file.
    """

    id: str
    backend: BackendName
    precision: Precision = "fp32"
    writer: Writer
    file: str = ""
    skip: int = 0
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    layout: Literal["NHWC", "NCHW", ""] = ""
    requires: Requires = Requires()
    quality: Quality | None = None
    options: dict[str, Any] = {}


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a variant may differ from the golden samples; the card says how it was measured."""

    atol: float
    atol_by_precision: dict[str, float] = {}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of the zoo.

    ``half_weights``: the published weights have 16 bits, and float files store them as such.
    ``clip``: the share of outliers that calibration ignores on each side, in each sample.
    """

    model: str
    title: str
    version: str
    created: str
    task: str
    license: str
    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    pre: Pre
    post: Post
    guards: Guards
    tolerance: Tolerance
    variant: tuple[VariantRecipe, ...]
    state: tuple[State, ...] = ()
    package: dict[str, Package] = {}
    half_weights: bool = False
    clip: float = 0.0

    def needs(self) -> tuple[str, ...]:
        """Return the packages that a build downloads, each once."""
        return tuple(dict.fromkeys(str(package) for package in self.package.values()))


def models_folder() -> Path:
    """Return the folder of the recipes: in the wheel's data, or ``models`` in a checkout."""
    package = Path(edgekit_optimize.__path__[0])
    installed = package / "_data" / "models"
    return installed if installed.is_dir() else package.parents[1] / "models"


def recipes(folder: Path | None = None) -> dict[str, Recipe]:
    """Return every recipe by its model's name.

    Raises:
        ConfigError: A recipe is not valid.
    """
    files = sorted((folder or models_folder()).glob("*/recipe.toml"))
    return {path.parent.name: _read(path) for path in files}


def recipe(name: str, folder: Path | None = None) -> Recipe:
    """Return one recipe.

    Raises:
        UsageError: There is no such model.
        ConfigError: The recipe is not valid.
    """
    root = folder or models_folder()
    path = root / name / "recipe.toml"
    if "/" in name or not path.is_file():
        known = ", ".join(sorted(file.parent.name for file in root.glob("*/recipe.toml")))
        raise UsageError(
            f"the zoo has no model {name!r}", hint=f"edgekit zoo lists all; with a recipe: {known}"
        )
    return _read(path)


def _read(path: Path) -> Recipe:
    what = f"{path.parent.name}/{path.name}"
    model_recipe = decode_toml(path.read_text(encoding="utf-8"), Recipe, what)
    task_named(model_recipe.task, what)
    return model_recipe
