"""The child process that runs a foreign file or a variant of a new bundle, for ``trial``.

A native library may crash or hang on a file that nobody has tried; only this process ends then.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgekit.backends import open_backend
from edgekit.base.child import run_job
from edgekit.core.spec import Pre, TensorSpec, Variant
from edgekit.importer.model_file import FileTensor, image_of
from edgekit.model.bundle import open_bundle
from edgekit.model.ready import Choices, open_variant
from edgekit.model.synthetic import fill_noise, run_synthetic
from edgekit.pipeline.pre import ImagePre, dequantize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.pipeline.predictor import Predictor

_MADE = 2
"""Made windows of a model that takes no pictures."""
_PROBE = Pre(resize="letterbox", std=(255.0,))


def _try(task: dict[str, Any], _progress: object) -> dict[str, Any]:
    with np.load(task["pictures"], allow_pickle=False) as archive:
        pictures = [archive[name] for name in archive.files]
    return _file(task, pictures) if "file" in task else _variant(task, pictures)


def _file(task: dict[str, Any], pictures: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """Run a file as it is: images letterboxed, RGB, 0 to 1; other inputs by what their names ask for."""
    variant = Variant(
        id="trial", backend=task["backend"], precision=task["precision"], options={"shapes": task["shapes"]}
    )
    backend = open_backend(Path(task["file"]), variant)
    picture_input = next((spec for spec in backend.inputs if _layout(spec)), None)
    answers: dict[str, NDArray[Any]] = {}
    for number, picture in enumerate(pictures if picture_input else pictures[:1]):
        fill_noise(backend, number)
        for spec in backend.inputs:
            if spec is picture_input:
                row = spec.shape if len(spec.shape) == 3 else (1, *spec.shape[1:])
                pre = ImagePre(_probe(spec), msgspec.structs.replace(spec, shape=row), _layout(spec))
                resized, _ = pre.resize(picture)
                tensor = pre.tensor(resized)
                backend.view(spec.name)[...] = tensor
            elif spec.datatype.startswith("FP"):
                backend.view(spec.name)[...] = 1
        for name, array in backend.run().items():
            spec = next(spec for spec in backend.outputs if spec.name == name)
            is_text = spec.datatype == "BYTES"
            answers[f"{number}:{name}"] = (
                np.array(array, str) if is_text else np.array(dequantize(array, spec))
            )
    np.savez(task["out"], **answers)  # type: ignore[arg-type]
    described = {
        "inputs": msgspec.to_builtins(backend.inputs),
        "outputs": msgspec.to_builtins(backend.outputs),
    }
    backend.close()
    return described


def _probe(spec: TensorSpec) -> Pre:
    image = image_of(FileTensor(spec.name, spec.datatype, spec.shape))
    is_gray = image is not None and image.channels == 1
    return msgspec.structs.replace(_PROBE, color="GRAY" if is_gray else "RGB")


def _layout(spec: TensorSpec) -> str:
    image = image_of(FileTensor(spec.name, spec.datatype, spec.shape))
    return image.layout if image is not None else ""


def _variant(task: dict[str, Any], pictures: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """Run a variant of a bundle on pictures: its logical outputs into the NPZ, its items into the answer."""
    bundle = open_bundle(task["bundle"])
    variant = next(v for v in bundle.manifest.variants if v.id == task["variant"])
    ready = open_variant(bundle, variant, {}, Choices(golden=False, warm=False))
    predictor, items = ready.predictor, []
    answers: dict[str, NDArray[Any]] = {}
    shape = predictor.image_input()
    if shape is None:
        if bundle.manifest.pre.window:
            answers = _windows(predictor)
        else:
            made = [run_synthetic(ready, seed) for seed in range(_MADE)]
            answers = {f"{n}:{name}": array for n, row in enumerate(made) for name, array in row.items()}
        np.savez(task["out"], **answers)  # type: ignore[arg-type]
        ready.close()
        return {"items": [], "is_image": False}
    name = next(iter(bundle.manifest.inputs)).name
    for number, picture in enumerate(pictures):
        if number < task["keep"]:
            resized = predictor.resized(picture)
            for output, array in predictor.run_golden({name: resized}).items():
                answers[f"{number}:{output}"] = array
            answers[f"{number}@{name}"] = resized
        prediction = predictor.predict(picture)
        items.append([msgspec.to_builtins(item) for item in prediction.items])
    np.savez(task["out"], **answers)  # type: ignore[arg-type]
    ready.close()
    return {"items": items, "is_image": True}


def _windows(predictor: Predictor) -> dict[str, NDArray[Any]]:
    """Return the logical inputs and outputs of made windows, as golden samples hold them."""
    (data,) = predictor.manifest.data_inputs()
    answers: dict[str, NDArray[Any]] = {}
    pre = predictor.manifest.pre
    channels = max(1, math.prod(data.shape[1:]) // (pre.window + pre.context))
    for seed in range(_MADE):
        window = np.random.default_rng(seed).normal(size=(pre.window, channels))
        if pre.front_end is None:
            window = window * np.array(pre.std) + np.array(pre.mean)
        else:  # a tone in noise: silence says nothing about a front end
            window = 0.05 * window + 0.3 * np.sin(np.arange(pre.window) * (0.1 + 0.2 * seed))[:, None]
        fed = np.asarray(window[None], np.float32)
        answers[f"{seed}@{data.name}"] = fed
        for output, array in predictor.run_golden({data.name: fed}).items():
            answers[f"{seed}:{output}"] = array
    return answers


if __name__ == "__main__":
    sys.exit(run_job(_try, dict[str, Any]))
