"""Read a run's inputs: the model, its description and the data."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.bench.variant_child import RECORDING
from edgekit.core.errors import ConfigError
from edgekit.core.spec import Manifest, TensorSpec
from edgekit.model.bundle import Bundle
from edgekit.pipeline.pre import ImagePre
from edgekit_optimize.cache import Cache, code_digest, digest_of, digest_of_files, versions_of
from edgekit_optimize.data.dataset import Split, brings_pictures, canonical, read_split
from edgekit_optimize.plan import Root
from edgekit_optimize.readers.read import source_files
from edgekit_optimize.run import target_model
from edgekit_optimize.run.child_job import run_child_job
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.states import guess_hint, with_states
from edgekit_optimize.run.target_model import TargetModel
from edgekit_optimize.run.zoo_model import ZooModel, zoo_model

logger = logging.getLogger(__name__)

_CHECK_SAMPLES = 8
_CONVERTERS = ("ai-edge-litert", "numpy", "onnx", "onnxruntime", "openvino", "torch", "tensorflow")


@dataclass(frozen=True)
class Inputs:
    """The target model and the data; ``samples`` is an NPZ of the evaluation set's logical inputs.

    ``is_described``: the model came in a bundle that says how outputs are decoded, so nothing is guessed.
    """

    target_model: TargetModel
    split: Split
    samples: Path
    is_described: bool


def read_inputs(request: Request, cache: Cache, progress: Progress) -> Inputs:
    """Read the model and the data, and check every conversion on real inputs.

    Raises:
        ModelError: The model cannot be used, or a conversion changed its outputs.
        ConfigError: The data cannot be used.
        UsageError: MODEL or its description is invalid.
    """
    progress.stage("reading the model")
    zoo = zoo_model(request.model)
    bundle = zoo.bundle(cache) if zoo else target_model.bundle_of(request.model)
    root, origin = _read_root(request, bundle, cache)
    labels = request.description.labels
    if bundle is not None:
        root, manifest = target_model.of_bundle(root, bundle, target_model.float_variant(bundle), request)
        labels = labels or bundle.labels()
    else:
        root, manifest = target_model.described(root, request, brings_pictures=brings_pictures(request.data))
    progress.stage("reading the data")
    split = with_states(_read_data(request, root, manifest, labels, zoo), root, manifest, cache)
    root = _calibrated(root, split, cache)
    samples = _samples(root, manifest, split, cache)
    progress.stage("checking the conversions")
    root = _checked(root, cache)
    if not labels and split.evaluation.classes and manifest.task == "classify":
        labels = split.evaluation.classes
    target = TargetModel(root=root, manifest=manifest, labels=tuple(labels), origin=origin)
    return Inputs(target, split, samples, bundle is not None)


def _read_root(request: Request, bundle: Bundle | None, cache: Cache) -> tuple[Root, dict[str, str]]:
    model = request.model
    if bundle is not None:
        model = str(bundle.path(target_model.float_variant(bundle)))
    shapes = {name: list(shape) for name, shape in request.shapes.items()}
    path = Path(model)
    task: dict[str, Any] = {"model": str(path.resolve()) if path.exists() else model, "shapes": shapes}
    # what a module's code depends on is unknown, so it is read again each time
    content = digest_of_files(*source_files(path)) if path.is_file() else digest_of(model, time.time_ns())
    # the path counts too, since a later check reopens the file; a bundle is unpacked to a new path each time
    location = "" if bundle is not None else task["model"]
    root, origin = _read(task, digest_of(content, location, shapes), cache)
    tools = ", ".join(f"{name} {version}" for name, version in origin["tools"].items())
    facts = {"kind": origin["kind"], "model": request.model, "sha256": origin["sha256"], "tools": tools}
    if origin.get("notes"):
        facts["notes"] = "; ".join(origin["notes"])
    return root, facts


def read_model(path: Path, cache: Cache) -> Root:
    """Return a model file in every form that it can be converted to."""
    content = digest_of(digest_of_files(*source_files(path)), str(path))
    return _read({"model": str(path), "shapes": {}}, content, cache)[0]


def _read(task: dict[str, Any], content: str, cache: Cache) -> tuple[Root, dict[str, Any]]:
    key = digest_of(content, code_digest(), versions_of(*_CONVERTERS))
    folder, result, _ = cache.make("read", key, _relative(lambda folder: run_child_job("read", task, folder)))
    root = msgspec.convert(result["root"], Root)
    forms = {
        name: str(folder / getattr(root, name))
        for name in ("onnx", "tflite", "openvino")
        if getattr(root, name)
    }
    return msgspec.structs.replace(root, **forms), result["origin"]


def _relative(fill: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Wrap a cache filler so that its root has relative paths: the folder is renamed afterwards."""

    def filled(folder: Path) -> dict[str, Any]:
        result = fill(folder)
        root = result["root"]
        for name in ("onnx", "tflite", "openvino"):
            if root.get(name):
                path = Path(root[name])
                root[name] = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        return result

    return filled


def _read_data(
    request: Request, root: Root, manifest: Manifest, labels: tuple[str, ...], zoo: ZooModel | None
) -> Split:
    inputs, prepare = _data_inputs(root, manifest)
    if zoo is not None:
        return zoo.split(request, inputs, prepare, labels)
    return read_split(
        request.data,
        inputs,
        prepare=prepare,
        labels=labels,
        calibration=request.calibration_samples,
        evaluation=request.samples,
        calibration_source=request.calibration,
        seed=request.seed,
        in_order=bool(manifest.state),
        absent="" if manifest.state else guess_hint(manifest.inputs, manifest.outputs),
    )


def _data_inputs(
    root: Root, manifest: Manifest
) -> tuple[tuple[TensorSpec, ...], Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None]:
    inputs = manifest.data_inputs()
    if not root.image:
        return inputs, None
    if manifest.task == "raw":  # model files take normalised values, the data are still pictures
        inputs = tuple(_as_image(spec, root) if spec.name == root.image else spec for spec in inputs)
    image = next(spec for spec in inputs if spec.datatype == "UINT8" and len(spec.shape) == 4)
    pre = ImagePre(manifest.pre, image, "NHWC")

    def prepare(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resized, _ = pre.resize(pixels)
        return np.array(resized, np.uint8)[np.newaxis]

    return inputs, prepare


def _as_image(spec: TensorSpec, root: Root) -> TensorSpec:
    shape = spec.shape
    if root.layout == "NCHW":
        shape = (shape[0], shape[2], shape[3], shape[1])
    return TensorSpec(name=spec.name, datatype="UINT8", shape=shape, layout="NHWC")


def _calibrated(root: Root, split: Split, cache: Cache) -> Root:
    arrays = canonical(split.calibration, root)
    return msgspec.structs.replace(root, calibration=str(_store(cache, arrays) / "arrays.npz"))


def _samples(root: Root, manifest: Manifest, split: Split, cache: Cache) -> Path:
    """Write the evaluation set as an NPZ of logical inputs, and return its path."""
    if manifest.task == "raw":
        by_canonical = canonical(split.evaluation, root)
        back = {canonical_name: logical for logical, canonical_name in root.names.items()}
        arrays: dict[str, NDArray[Any]] = {
            back.get(name, name): array for name, array in by_canonical.items()
        }
    else:
        arrays = dict(split.evaluation.inputs)
    if split.evaluation.in_order:
        marks = np.zeros(len(split.evaluation), np.int32)
        marks[[start for start in split.evaluation.starts if start]] = 1
        arrays[RECORDING] = np.cumsum(marks, dtype=np.int32)
    return _store(cache, arrays) / "arrays.npz"


def _store(cache: Cache, arrays: dict[str, NDArray[Any]]) -> Path:
    key = digest_of({name: [array.shape, array.dtype.str, _hash(array)] for name, array in arrays.items()})

    def fill(folder: Path) -> dict[str, Any]:
        try:
            np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
        except OSError as cause:
            raise ConfigError(
                f"cannot store the samples in {folder}: {cause.strerror}",
                hint="free some space, or give another folder with --cache",
            ) from cause
        return {}

    return cache.make("arrays", key, fill)[0]


def _hash(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _checked(root: Root, cache: Cache) -> Root:
    plain = msgspec.structs.replace(root, checks=())
    key = digest_of(plain, code_digest(), versions_of(*_CONVERTERS))
    task = {"root": msgspec.to_builtins(plain), "samples": _CHECK_SAMPLES}
    _, result, _ = cache.make("check", key, lambda folder: run_child_job("check", task, folder))
    return msgspec.convert(result["root"], Root)
