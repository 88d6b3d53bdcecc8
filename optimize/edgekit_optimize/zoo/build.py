"""Build the zoo's models into bundles from pinned packages.

A model is a folder below ``models/``: ``recipe.toml`` says what goes into the bundle, ``build.py``
has the model's own code, as functions that take a ``Kit``:

- ``network(kit)``: the float network, with the manifest's names for its inputs and outputs (absent if
  there is only the package's own file);
- ``golden(kit)``: logical inputs of the golden samples, from real recordings;
- ``calibration(kit)``: logical inputs to measure int8 ranges with;
- ``evaluation(kit)``: logical inputs to evaluate variants on, or a pair with their classes if they are
  labelled; without golden and calibration samples; for a model with state, one recording in order,
  each sample with the state before it;
- ``labels(kit)``: one label for each class, if there are classes;
- ``reference(kit, inputs)``: the expected outputs, if there is no network to compute them.

The same recipe always gives the same bytes, so two builds can be compared by hash.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.base.files import sha256_of
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import (
    BUNDLE_FORMAT,
    VERSION,
    Golden,
    Manifest,
    Provenance,
    Variant,
    VariantFile,
    parse_manifest,
)
from edgekit_optimize.graph.network import Array, Network
from edgekit_optimize.graph.onnx_file import write_onnx
from edgekit_optimize.graph.openvino_ir import write_openvino
from edgekit_optimize.graph.quantize import Affine, Quantized, observe, quantize
from edgekit_optimize.graph.tflite import write_tflite
from edgekit_optimize.zoo.fetch import fetch
from edgekit_optimize.zoo.recipe import Recipe, VariantRecipe, Writer, models_folder, recipe
from edgekit_optimize.zoo.recordings import recording

logger = logging.getLogger(__name__)

Feeds = dict[str, NDArray[Any]]
_EPOCH = 315_532_800  # 1980: the earliest time that every archive format supports


@dataclass(eq=False)
class Kit:
    """The argument of a recipe's hooks: its packages, its folder, the recordings."""

    recipe: Recipe
    folder: Path
    cache: Path | None = None
    alter: Callable[[Network], Network] | None = None
    _network: Network | None = None
    _quantized: Quantized | None = None
    _hooks: ModuleType | None = field(default=None, repr=False)

    def file(self, key: str) -> Path:
        """Return the file of one of the recipe's packages, fetched on first use."""
        return fetch(self.recipe.package[key], self.cache)

    def recording(self, name: str) -> Path:
        """Return the file of one of the zoo's recordings, fetched on first use."""
        return recording(name, self.cache)

    def hook(self, name: str) -> Callable[..., Any] | None:
        """Return a function of the model's ``build.py``, or None if it has no such function."""
        if self._hooks is None:
            self._hooks = _load(self.folder / "build.py")
        function: Callable[..., Any] | None = getattr(self._hooks, name, None)
        return function

    def network(self) -> Network:
        """Return the model's float network, built on first use."""
        if self._network is None:
            make = self.hook("network")
            if make is None:
                raise ConfigError(f"{self.recipe.model}: build.py has no network()")
            network: Network = make(self)
            self._network = network if self.alter is None else self.alter(network)
        return self._network

    @property
    def half_weights(self) -> bool:
        """Whether float files may store weights in 16 bits without loss; false for an altered network."""
        return self.recipe.half_weights and self.alter is None

    def normalise(self, feeds: Feeds) -> dict[str, Array]:
        """Return logical inputs normalised for the network: ``(x - mean) / std``, float32."""
        mean = np.asarray(self.recipe.pre.mean, np.float32)
        std = np.asarray(self.recipe.pre.std, np.float32)
        return {name: ((values.astype(np.float32) - mean) / std) for name, values in feeds.items()}

    def quantized(self) -> Quantized:
        """Return the parameters of the int8 files, measured on first use."""
        if self._quantized is None:
            samples: Iterable[Feeds] = _required_hook(self, "calibration")(self)
            network = self.network()
            ranges = observe(network, (self.normalise(feeds) for feeds in samples), clip=self.recipe.clip)
            self._quantized = quantize(network, ranges, _pixel_meaning(self.recipe))
        return self._quantized


def open_kit(name: str, *, cache: Path | None = None, models: Path | None = None) -> Kit:
    """Return the ``Kit`` that a model's hooks are called with.

    Args:
        name: The model's name, as in ``recipes()``.
        cache: Where packages are kept; None for the user's cache.
        models: The folder of recipes; None for the zoo's own.

    Raises:
        UsageError: There is no such model.
    """
    return Kit(recipe(name, models), (models or models_folder()) / name, cache)


def build(
    name: str,
    out_dir: Path,
    *,
    version: str | None = None,
    variants: Iterable[str] | None = None,
    cache: Path | None = None,
    ekb: bool = False,
    models: Path | None = None,
    alter: Callable[[Network], Network] | None = None,
) -> Path:
    """Build a model of the zoo into a bundle.

    Args:
        name: The model's name, as in ``recipes()``.
        out_dir: The folder to write to; a bundle of the same name is replaced.
        version: The bundle's version; None for the recipe's.
        variants: The ids to keep; None for all.
        cache: Where packages are kept; None for the user's cache.
        ekb: Write one ``.ekb`` file instead of a folder.
        models: The folder of recipes; None for the zoo's own.
        alter: Changes the network before anything is written (to rehearse a bad model); the
            package's own file is then not used.

    Returns:
        The bundle: ``out_dir/NAME-VERSION``, or the same with ``.ekb``.

    Raises:
        UsageError: There is no such model or variant, or the version is invalid.
        LinkError: A package is not in the cache and cannot be fetched.
        HashMismatchError: A package is not the pinned one.
        BackendUnavailableError: A library that a variant needs is not installed.
    """
    model_recipe = recipe(name, models)
    number = checked_version(version or model_recipe.version)
    chosen = _choose(model_recipe, variants)
    if alter is not None:
        chosen = tuple(map(_from_network, chosen))
    kit = Kit(model_recipe, (models or models_folder()) / name, cache, alter)
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=f".{name}-") as scratch:
        folder = Path(scratch) / f"{name}-{number}"
        _fill(kit, folder, number, chosen)
        target = out_dir / folder.name
        if ekb:
            return pack(folder, target.with_name(f"{target.name}.ekb"))
        if target.is_dir():
            shutil.rmtree(target)
        folder.replace(target)
    return target


def checked_version(number: str) -> str:
    """Return a bundle's version.

    Raises:
        UsageError: It is not MAJOR.MINOR.PATCH.
    """
    if not VERSION.fullmatch(number):
        raise UsageError(f"version: want MAJOR.MINOR.PATCH, got {number!r}")
    return number


def pack(folder: Path, target: Path) -> Path:
    """Write a bundle folder as one uncompressed tar with reproducible bytes."""
    part = target.with_name(f".{target.name}.part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        # The manifest first, so that a reader of a stream can refuse it before the large files.
        for name in sorted(names, key=lambda name: name != "bundle.json"):
            info = tar.gettarinfo(folder / name, name)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime, info.mode = _EPOCH, 0o644
            with (folder / name).open("rb") as file:
                tar.addfile(info, file)
    part.replace(target)
    return target


def seal(manifest: Manifest, folder: Path) -> Manifest:
    """Write a manifest into a bundle folder, with the sizes and hashes of the folder's files.

    Returns:
        The manifest, read back after writing.

    Raises:
        BundleError: The manifest is not valid.
    """
    extra = {path for golden in manifest.golden for path in (golden.inputs, golden.outputs)}
    if manifest.labels:
        extra.add(manifest.labels)
    if (folder / "card.md").is_file():
        extra.add("card.md")
    manifest = msgspec.structs.replace(
        manifest,
        files=tuple(_listed(folder, path) for path in sorted(extra)),
        variants=tuple(
            msgspec.structs.replace(variant, files=tuple(_listed(folder, f.path) for f in variant.files))
            for variant in manifest.variants
        ),
    )
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    checked = parse_manifest(data)
    (folder / "bundle.json").write_bytes(data)
    return checked


def write_golden(folder: Path, samples: list[tuple[Feeds, dict[str, Array]]]) -> tuple[tuple[str, str], ...]:
    """Write golden samples into a bundle folder; return the (inputs, outputs) paths of each."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (inputs, outputs) in enumerate(samples):
        pair = (f"golden/{number}.npz", f"golden/{number}.out.npz")
        for path, arrays in zip(pair, (inputs, outputs), strict=True):
            np.savez(folder / path, allow_pickle=False, **arrays)
        paths.append(pair)
    return tuple(paths)


# ---------------------------------------------------------------------------------------------


def _choose(model_recipe: Recipe, ids: Iterable[str] | None) -> tuple[VariantRecipe, ...]:
    if ids is None:
        return model_recipe.variant
    unique_ids = list(dict.fromkeys(ids))
    known = {variant.id: variant for variant in model_recipe.variant}
    unknown = [name for name in unique_ids if name not in known]
    if unknown or not unique_ids:
        raise UsageError(
            f"{model_recipe.model} has no variant {', '.join(map(repr, unknown)) or 'in an empty list'}",
            hint=f"it has {', '.join(known)}",
        )
    return tuple(known[name] for name in unique_ids)


def _from_network(plan: VariantRecipe) -> VariantRecipe:
    """Return a recipe that makes the variant from the network instead of the package's own file."""
    if plan.writer != "file":
        return plan
    writer, layout = _INSTEAD[plan.backend]
    return msgspec.structs.replace(plan, writer=writer, layout=layout, inputs={}, outputs={})


def _fill(kit: Kit, folder: Path, version: str, chosen: tuple[VariantRecipe, ...]) -> None:
    model_recipe = kit.recipe
    (folder / "variants").mkdir(parents=True)
    labels = kit.hook("labels")
    if labels is not None:
        (folder / "labels.txt").write_text("\n".join(labels(kit)) + "\n", encoding="utf-8")
    variants = []
    for plan in chosen:
        logger.info("%s: writing %s", model_recipe.model, plan.id)
        paths = _WRITERS[plan.writer](kit, plan, folder / "variants")
        variants.append(_variant(plan, [path.relative_to(folder).as_posix() for path in paths]))
    inputs: list[Feeds] = _required_hook(kit, "golden")(kit)
    pairs = write_golden(folder, [(feeds, _expected(kit, feeds)) for feeds in inputs])
    manifest = Manifest(
        format=BUNDLE_FORMAT,
        model=model_recipe.model,
        version=version,
        task=model_recipe.task,
        license=model_recipe.license,
        created=model_recipe.created,
        inputs=model_recipe.inputs,
        outputs=model_recipe.outputs,
        pre=model_recipe.pre,
        post=model_recipe.post,
        state=model_recipe.state,
        labels="" if labels is None else "labels.txt",
        variants=tuple(variants),
        golden=_golden(model_recipe, pairs),
        guards=model_recipe.guards,
        provenance=Provenance(
            source=model_recipe.source,
            command=f"edgekit zoo build {model_recipe.model}",
            parents=model_recipe.needs(),
        ),
    )
    seal(manifest, folder)


def _golden(recipe: Recipe, pairs: Iterable[tuple[str, str]]) -> tuple[Golden, ...]:
    tolerance = recipe.tolerance
    return tuple(
        Golden(
            inputs=inputs, outputs=outputs, atol=tolerance.atol, atol_by_precision=tolerance.atol_by_precision
        )
        for inputs, outputs in pairs
    )


def _variant(plan: VariantRecipe, paths: list[str]) -> Variant:
    return Variant(
        id=plan.id,
        backend=plan.backend,
        precision=plan.precision,
        files=tuple(VariantFile(path=path, bytes=0, sha256="0" * 64) for path in paths),
        requires=plan.requires,
        quality=plan.quality,
        inputs=plan.inputs,
        outputs=plan.outputs,
        layout=plan.layout,
        options=plan.options,
    )


def _listed(folder: Path, path: str) -> VariantFile:
    file = folder / path
    return VariantFile(path=path, bytes=file.stat().st_size, sha256=sha256_of(file))


def _expected(kit: Kit, feeds: Feeds) -> dict[str, Array]:
    reference = kit.hook("reference")
    if reference is not None:
        outputs: dict[str, Array] = reference(kit, feeds)
    else:
        outputs = kit.network().run(kit.normalise(feeds))
    return {spec.name: outputs[spec.name].astype(np.float32) for spec in kit.recipe.outputs}


def _pixel_meaning(model_recipe: Recipe) -> dict[str, Affine]:
    """Return exact input parameters for images, such that the file's integers are the pixels less 128."""
    pixels = [spec.name for spec in model_recipe.inputs if spec.datatype == "UINT8"]
    if len(set(model_recipe.pre.mean)) != 1 or len(set(model_recipe.pre.std)) != 1:
        return {}
    meaning = Affine(float(np.float32(1.0 / model_recipe.pre.std[0])), round(model_recipe.pre.mean[0]) - 128)
    return dict.fromkeys(pixels, meaning)


def _required_hook(kit: Kit, name: str) -> Callable[..., Any]:
    function = kit.hook(name)
    if function is None:
        raise ConfigError(f"{kit.recipe.model}: build.py has no {name}()")
    return function


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"edgekit_zoo_{path.parent.name.replace('-', '_')}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path.parent.name}: has no build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _store(path: Path, data: Callable[[], bytes]) -> list[Path]:
    if not path.exists():  # two variants with the same writer share one file
        path.write_bytes(data())
    return [path]


def _write_file(kit: Kit, plan: VariantRecipe, folder: Path) -> list[Path]:
    source = kit.file(plan.file)
    stem = kit.recipe.model if plan.skip else source.stem
    suffix = ".tflite" if plan.backend == "litert" else source.suffix
    return _store(folder / f"{stem}{suffix}", lambda: source.read_bytes()[plan.skip :])


def _write_tflite(kit: Kit, _plan: VariantRecipe, folder: Path) -> list[Path]:
    return _store(folder / "fp32.tflite", lambda: write_tflite(kit.network(), name=kit.recipe.model))


def _write_tflite_int8(kit: Kit, _plan: VariantRecipe, folder: Path) -> list[Path]:
    return _store(
        folder / "int8.tflite", lambda: write_tflite(kit.network(), kit.quantized(), name=kit.recipe.model)
    )


def _write_onnx(kit: Kit, _plan: VariantRecipe, folder: Path) -> list[Path]:
    half, name = kit.half_weights, kit.recipe.model
    return _store(folder / "fp32.onnx", lambda: write_onnx(kit.network(), half_weights=half, name=name))


def _write_onnx_int8(kit: Kit, _plan: VariantRecipe, folder: Path) -> list[Path]:
    return _store(
        folder / "int8.onnx", lambda: write_onnx(kit.network(), kit.quantized(), name=kit.recipe.model)
    )


def _write_openvino(kit: Kit, _plan: VariantRecipe, folder: Path) -> list[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        source.write_bytes(write_onnx(kit.network(), name=kit.recipe.model))
        return list(write_openvino(source, folder / "fp32.xml", half_weights=kit.half_weights))


_WRITERS: dict[str, Callable[[Kit, VariantRecipe, Path], list[Path]]] = {
    "file": _write_file,
    "tflite": _write_tflite,
    "tflite-int8": _write_tflite_int8,
    "onnx": _write_onnx,
    "onnx-int8": _write_onnx_int8,
    "openvino": _write_openvino,
}

_INSTEAD: dict[str, tuple[Writer, Literal["", "NCHW"]]] = {
    "litert": ("tflite", ""),
    "onnxruntime": ("onnx", "NCHW"),
    "openvino": ("openvino", "NCHW"),
}
