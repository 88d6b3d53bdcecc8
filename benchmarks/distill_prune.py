"""What training can take out of a network: pruning with int8, and a student with and without its teacher.

    python benchmarks/distill_prune.py [--full] [--json]

Trains the classifier of ``examples/digits`` on 8,000 real labelled digits; 2,000 others, which nothing
is trained or calibrated on, judge everything. All int8 files are made by edgekit's makers and run by
its backends.

- Pruned, then int8: multiply-adds and bytes against the float original, and the points lost. The bar:
  at least 4 times fewer multiply-adds, 8 times fewer bytes, at most 1 point lost, in both file formats.
- A student with the teacher's answers against the same student alone, same seeds, batches and number of
  steps, in two settings: with every label, and with 500 labels and the other 7,500 images without. Said
  as it is found; the bar is that it is said.
- Weights of 3 bits with one scale for a whole layer, where rounding after training loses much, against
  training with the rounding (``--full``).

Trains on one thread a process, so that a run repeats.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from edgekit.backends import open_backend
from edgekit.model.bundle import open_bundle
from edgekit.pipeline.pre import quantize
from edgekit_optimize.makers import litert, onnxruntime
from edgekit_optimize.plan import Plan, Root
from edgekit_optimize.readers.read import read_source
from edgekit_optimize.shrink import api
from edgekit_optimize.shrink.rounding import Grid, fold, rounded

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "digits"))
import digits
from _report import finish, parser

SHAPE = (1, 1, 28, 28)
LABELLED = 500
FEWER_MULTIPLY_ADDS, FEWER_BYTES, POINTS = 4.0, 8.0, 1.0
CALIBRATION = 200
SETTINGS = {  # what the student with a teacher learns from, and what the one without
    "all 8000 labels": ("digits:batches", "digits:batches"),
    "500 labels, 7500 images without": ("distill_prune:no_labels", "distill_prune:few_labels"),
}


def few_labels(seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield as many batches as an epoch has, of the first 500 training digits alone."""
    images, labels = (values[digits.HELD_OUT :][:LABELLED] for values in digits.digits())
    count = (len(digits.digits()[1]) - digits.HELD_OUT) // digits.BATCH
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(LABELLED) for _ in range(count * digits.BATCH // LABELLED + 1)])
    for start in range(0, count * digits.BATCH, digits.BATCH):
        chosen = order[start : start + digits.BATCH]
        yield digits.moved(images[chosen], rng), torch.from_numpy(labels[chosen])


def no_labels(seed: int) -> Iterator[tuple[Any, None]]:
    """Yield an epoch of all training images without their digits: the teacher is all there is."""
    for images, _ in digits.batches(seed):
        yield images, None


def main() -> int:
    """Train, measure, print, and return the exit code."""
    args = parser(
        __doc__,
        full="more epochs, five seeds, training with rounding",
        sabotage="a tenth is pruned, not three quarters, and no student learns",
    ).parse_args()
    ratio, epochs = (0.1, 1) if args.sabotage else (0.75, 12 if args.full else 4)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgekit-shrink-") as name:
        work = Path(name)
        digits.WEIGHTS = work / "net.pt"
        say(args.json, "training the original")
        digits.main(
            epochs=1 if args.sabotage else 12 if args.full else 5, tell=lambda text: say(args.json, text)
        )
        detail, holds = pruned(work, ratio, epochs, args.json)
        if not args.sabotage:
            detail["distillation"] = distilled(work, 24 if args.full else 5, 5 if args.full else 2, args.json)
        if args.full:
            detail["rounding"] = roundings(work, args.json)
    return finish(
        "points lost by pruning and int8, at 4 times fewer multiply-adds and 8 times fewer bytes",
        detail["points_lost"],
        "points",
        POINTS,
        holds,
        detail,
        args.json,
    )


def pruned(work: Path, ratio: float, epochs: int, quiet: bool) -> tuple[dict[str, Any], bool]:
    """Prune, make int8 files of both formats, and compare with the float original."""
    calibration = work / "calibration.npz"
    np.savez(calibration, x=digits.digits()[0][digits.HELD_OUT :][:CALIBRATION, None])
    original = root_of("digits:net", work / "original", calibration)
    say(quiet, f"pruning, {epochs} epochs")
    shrunk = api.prune("digits:net", "digits:batches", folder(work / "pruned"), shape=SHAPE,
                       ratio=ratio, epochs=epochs, seed=0)  # fmt: skip
    smaller = root_of(shrunk.onnx, work / "smaller", calibration)
    reference = accuracy(Path(original.onnx))
    multiply_adds = shrunk.multiply_adds_before / shrunk.multiply_adds
    rows = [int8_row(form, original, smaller, work, reference) for form in ("onnx", "tflite")]
    detail = {
        "accuracy": reference,
        "pruned_float_accuracy": accuracy(Path(shrunk.onnx)),
        "multiply_adds": [shrunk.multiply_adds_before, shrunk.multiply_adds],
        "parameters": [shrunk.parameters_before, shrunk.parameters],
        "times_fewer_multiply_adds": round(multiply_adds, 2),
        "int8": rows,
        "points_lost": max(row["points_lost"] for row in rows),
        "bars": {"multiply_adds": FEWER_MULTIPLY_ADDS, "bytes": FEWER_BYTES, "points": POINTS},
    }
    holds = multiply_adds >= FEWER_MULTIPLY_ADDS and all(
        row["times_fewer_bytes"] >= FEWER_BYTES and row["points_lost"] <= POINTS for row in rows
    )
    return detail, holds


def int8_row(form: str, original: Root, smaller: Root, work: Path, reference: float) -> dict[str, Any]:
    """Make the pruned network's int8 file of one format and hold it against the float original's."""
    maker, technique, backend = {
        "onnx": (onnxruntime.make_static, "onnx-static", "onnxruntime"),
        "tflite": (litert.make_static, "litert-static", "litert"),
    }[form]
    target = folder(work / f"int8-{form}")
    made = maker(smaller, Plan(id=form, technique=technique, backend=backend, precision="int8"), target)
    file = target / made.files[0]
    before, after = Path(getattr(original, form)).stat().st_size, file.stat().st_size
    found = accuracy(file)
    return {
        "form": form,
        "accuracy": found,
        "points_lost": round(100 * (reference - found), 2),
        "bytes": [before, after],
        "times_fewer_bytes": round(before / after, 2),
    }


def distilled(work: Path, epochs: int, seeds: int, quiet: bool) -> list[dict[str, Any]]:
    """Train the student with and without its teacher from the same seeds; say which is better."""
    say(quiet, f"students: 2 settings, {seeds} seeds, {epochs} epochs, with the teacher and without")
    jobs = [(work, setting, seed, epochs) for setting in SETTINGS for seed in range(1, seeds + 1)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(student_pair, jobs))
    return [summary(setting, rows[at * seeds : (at + 1) * seeds]) for at, setting in enumerate(SETTINGS)]


def student_pair(job: tuple[Path, str, int, int]) -> dict[str, float]:
    """Train one student alone and the same with its teacher; return what share each gets right."""
    work, setting, seed, epochs = job
    torch.set_num_threads(1)
    digits.WEIGHTS = work / "net.pt"
    taught_on, alone_on = SETTINGS[setting]
    own = folder(work / f"{taught_on.partition(':')[2]}-{seed}")
    common = {"shape": SHAPE, "epochs": epochs, "seed": seed}
    by_itself = accuracy(Path(api.alone("digits:small", alone_on, own, **common).onnx))
    taught = api.distill("digits:net", "digits:small", taught_on, own, **common)
    return {"alone": by_itself, "taught": accuracy(Path(taught.onnx))}


def summary(setting: str, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Say whether the teacher was worth a point."""
    gain = float(np.mean([100 * (row["taught"] - row["alone"]) for row in rows]))
    verdict = "beats" if gain >= POINTS else "does NOT beat"
    return {
        "data": setting,
        "verdict": f"distillation {verdict} the student alone by at least {POINTS:g} point: "
        f"{gain:+.2f}, mean of {len(rows)} seeds",
        "gain_points": round(gain, 2),
        "seeds": rows,
    }


def roundings(work: Path, quiet: bool) -> dict[str, Any]:
    """Round weights to 3 bits with one scale a layer, after training and in training."""
    say(quiet, "training with rounding")
    bits, per_channel = 3, False
    example = (torch.zeros(SHAPE),)
    after = fold(digits.net().eval(), example)
    with rounded(after, Grid(bits, per_channel)):
        pass
    taught = api.qat("digits:net", "digits:batches", folder(work / "qat"), shape=SHAPE, epochs=3, seed=0,
                     bits=bits, per_channel=per_channel)  # fmt: skip
    images, labels = (torch.from_numpy(values[: digits.HELD_OUT]) for values in digits.digits())
    with torch.no_grad():
        right = (after(images[:, None]).argmax(1) == labels).float().mean()
    return {
        "weights": "3 bits, one scale a layer",
        "rounded_after_training": round(float(right), 4),
        "rounded_in_training": accuracy(Path(taught.onnx)),
    }


def root_of(model: str, target: Path, calibration: Path) -> Root:
    """Read a model into every form, with the calibration data under its input's name."""
    root, _ = read_source(model, target, shapes={"": SHAPE})
    with np.load(calibration) as archive:
        named = target / "calibration.npz"
        np.savez(named, **{root.inputs[0].name: archive["x"]})
    return msgspec.structs.replace(root, calibration=str(named))


def accuracy(file: Path) -> float:
    """Return the share of the held-out digits that a file gets right, run by its backend."""
    bundle = open_bundle(file)
    variant = bundle.manifest.variants[0]
    images, labels = (values[: digits.HELD_OUT] for values in digits.digits())
    backend = open_backend(bundle.path(variant), variant)
    try:
        spec = backend.inputs[0]
        right = 0
        for image, label in zip(images, labels, strict=True):
            pixels = image.reshape(spec.shape)
            found = backend.infer({spec.name: quantize(pixels, spec) if spec.quantization else pixels})
            right += int(next(iter(found.values())).argmax()) == label
    finally:
        backend.close()
    return right / len(labels)


def folder(path: Path) -> Path:
    """Make a folder where there is none."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(quiet: bool, text: str) -> None:
    """Tell how far it is, on stderr."""
    if not quiet:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
