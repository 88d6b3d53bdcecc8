"""Write the results of a run: the bundle with its golden samples and card, and the report."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, StorageError, UsageError
from edgekit.core.spec import (
    NAME,
    VERSION,
    Cost,
    Golden,
    Guards,
    Provenance,
    Quality,
    Variant,
    parse_manifest,
)
from edgekit.pipeline.pre import vision
from edgekit_optimize.metrics.table import Observed, per_sample
from edgekit_optimize.report.write import read_study, write_card, write_report
from edgekit_optimize.run.candidate_runner import Entry, observed
from edgekit_optimize.run.inputs import Inputs
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.search import Search
from edgekit_optimize.study import CandidateResult, Sample, Study, TargetResult
from edgekit_optimize.zoo.build import pack, seal, write_golden

_GOLDEN = 3
_WORST = 4
_PICTURE_PX = 128
_MARGIN = 2.0  # other processors' integer kernels round the last digit differently
_FLOOR = 1e-4
_GUARDS = Guards(p99_ratio=2.0, error_ratio=0.01, event_ratio=3.0, min_frames=30)


@dataclass(frozen=True)
class Outcome:
    """The results of a run: the study, the bundle (None if no variant was kept), the report's page."""

    study: Study
    bundle: Path | None
    report: Path


def check_output_paths(request: Request) -> None:
    """Check that the bundle and the report can be written without overwriting something else.

    Raises:
        UsageError: The name, the version or a path is invalid.
        StorageError: The folder cannot be written.
    """
    out = request.out
    if request.description.version and not VERSION.fullmatch(request.description.version):
        raise UsageError(f"--version: want MAJOR.MINOR.PATCH, got {request.description.version!r}")
    if request.description.model and not NAME.fullmatch(request.description.model):
        raise UsageError(
            f"--name: want lower-case letters, digits, '.', '_', '-', got {request.description.model!r}"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / "bundle.json").is_file():
        raise UsageError(
            f"{out} is a folder that is not a bundle", hint="give -o a path that is not there yet"
        )
    if out.is_file() and out.suffix != ".ekb":
        raise UsageError(f"{out} is a file that is not a bundle", hint="give -o a path that is not there yet")
    for folder in {out.absolute().parent, report_folder(request)}:
        _see_that_it_can_be_written(folder)
    report = report_folder(request) / "report.json"
    if not report.exists():
        return
    try:
        owner = read_study(report).bundle
    except ConfigError as cause:
        raise UsageError(
            f"{report} was not written by edgekit and would be overwritten", hint="give --report DIR"
        ) from cause
    if not _is_same(Path(owner), out, report.parent):
        raise UsageError(
            f"{report} is the report of {owner} and would be overwritten", hint="give --report DIR"
        )


def _see_that_it_can_be_written(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:
        raise StorageError(
            f"{folder}: cannot be written: {cause.strerror}", hint="give another -o or --report"
        ) from cause


def _is_same(owner: Path, out: Path, report: Path) -> bool:
    """Return whether two paths are the same bundle; the first may be relative to another folder."""
    if owner.absolute() == out.absolute():
        return True
    return owner.name == out.name and out.absolute().parent == report.absolute()


def report_folder(request: Request) -> Path:
    """Return the folder of the report, by default the bundle's."""
    return request.report or request.out.absolute().parent


def deliver(search: Search, request: Request, inputs: Inputs, study: Study) -> Outcome:
    """Write the report, and the bundle if any candidate was kept.

    Raises:
        StorageError: They cannot be written.
    """
    folder = report_folder(request)
    kept = [result for result in study.candidates if result.kept]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bundle = _bundle(search, request, inputs, study, kept) if kept else None
        page, _ = write_report(study, folder)
    except OSError as cause:
        raise StorageError(
            f"{request.out} and its report cannot be written: {cause.strerror or cause}",
            hint="make room and run the same command again: results are cached, so it takes seconds",
        ) from cause
    return Outcome(study, bundle, page)


def _bundle(
    search: Search, request: Request, inputs: Inputs, study: Study, kept: Sequence[CandidateResult]
) -> Path:
    out = request.out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch) / "bundle"
        fill_bundle(folder, search, inputs, kept, created=study.created, command=study.command)
        manifest = search.runner.manifest
        card = write_card(study, f"{manifest.model} {manifest.version}", manifest.license)
        (folder / "card.md").write_text(card, encoding="utf-8")
        seal(parse_manifest((folder / "bundle.json").read_bytes()), folder)
        if out.suffix == ".ekb":
            return pack(folder, out)
        old = Path(scratch) / "old"
        if out.exists():
            out.rename(old)
        folder.rename(out)
    return out


def fill_bundle(
    folder: Path,
    search: Search,
    inputs: Inputs,
    kept: Sequence[CandidateResult],
    *,
    created: str,
    command: str,
) -> None:
    """Write a bundle of the kept candidates into a folder: files, labels, golden samples, manifest."""
    runner = search.runner
    entries = [runner.entries[result.plan.id] for result in kept]
    for entry in entries:
        for file in entry.variant.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(runner.folder / file.path, target)
    manifest = runner.manifest
    if manifest.labels:
        shutil.copyfile(runner.folder / manifest.labels, folder / manifest.labels)
    seal(
        msgspec.structs.replace(
            manifest,
            created=created,
            variants=tuple(_variant(entry, result) for entry, result in zip(entries, kept, strict=True)),
            golden=_golden(folder, search, inputs, entries),
            guards=_GUARDS if manifest.guards == Guards() else manifest.guards,
            provenance=Provenance(
                source=inputs.target_model.origin["model"],
                command=command,
                parents=(f"sha256:{inputs.target_model.origin['sha256']}",),
            ),
        ),
        folder,
    )


def _variant(entry: Entry, result: CandidateResult) -> Variant:
    score = result.score
    quality = None
    if score is not None:
        quality = Quality(
            metric=score.metric,
            value=round(score.value, 5),
            reference=round(score.reference, 5),
            samples=score.samples,
            beyond_gate=result.gate == "fail",
        )
    costs = tuple(
        Cost(
            profile=timing.profile,
            p50_ms=round(timing.p50_ms, 4),
            p99_ms=round(timing.p99_ms, 4),
            rss_mb=round(timing.rss_mb, 1),
            measured=timing.measured,
        )
        for timing in result.timings
    )
    return msgspec.structs.replace(entry.variant, quality=quality, cost=costs)


# ---------------------------------------------------------------------------------------------
# Golden samples


def _golden(folder: Path, search: Search, inputs: Inputs, entries: Sequence[Entry]) -> tuple[Golden, ...]:
    assert search.reference is not None
    with np.load(inputs.samples, allow_pickle=False) as archive:
        feeds = {spec.name: archive[spec.name] for spec in search.runner.manifest.inputs}
    count = len(next(iter(feeds.values())))
    chosen = sorted({round(number * (count - 1) / max(_GOLDEN - 1, 1)) for number in range(_GOLDEN)})
    expected = search.reference.outputs
    manifest = search.runner.manifest
    shapes = {spec.name: spec.shape for spec in (*manifest.inputs, *manifest.outputs)}
    pairs = write_golden(
        folder,
        [
            (
                {name: _single(array, n, shapes[name]) for name, array in feeds.items()},
                {
                    name: _single(array, n, shapes[name]).astype(np.float32)
                    for name, array in expected.items()
                },
            )
            for n in chosen
        ],
    )
    tolerances = _tolerances(search, entries, chosen)
    return tuple(
        Golden(
            inputs=inputs_path,
            outputs=outputs_path,
            atol=tolerances.get("fp32", _FLOOR),
            atol_by_precision=tolerances,
        )
        for inputs_path, outputs_path in pairs
    )


def _single(arrays: NDArray[Any], n: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return one sample with its batch axis; a state has no batch axis."""
    return arrays[n : n + 1] if shape[:1] in ((1,), (-1,)) else arrays[n]


def _tolerances(search: Search, entries: Sequence[Entry], chosen: Sequence[int]) -> dict[str, float]:
    """Return the tolerance by precision: twice the largest difference measured on golden samples."""
    assert search.reference is not None
    expected = search.reference.outputs
    scale = max(float(np.max(np.abs(array[chosen]), initial=0.0)) for array in expected.values())
    tolerances: dict[str, float] = {}
    for entry in entries:
        outputs = search.outputs.get(entry.id)
        if outputs is None:
            continue
        values = observed(outputs).outputs
        worst = max(
            float(np.max(np.abs(values[name][chosen].astype(np.float64) - array[chosen]), initial=0.0))
            for name, array in expected.items()
        )
        atol = float(
            np.format_float_positional(
                _MARGIN * worst + _FLOOR * max(scale, 1.0), precision=2, fractional=False
            )
        )
        precision = entry.variant.precision
        tolerances[precision] = max(tolerances.get(precision, 0.0), atol)
    return tolerances


# ---------------------------------------------------------------------------------------------
# Worst samples


def worst_samples(search: Search, inputs: Inputs, chosen: Sequence[TargetResult]) -> tuple[Sample, ...]:
    """Return the chosen candidates' worst samples, each with the float model's answer."""
    assert search.reference is not None
    data, metric = search.evaluation.dataset, search.evaluation.metric
    samples: list[Sample] = []
    for name in dict.fromkeys(target.chosen for target in chosen if target.chosen):
        if name == search.reference_id or name not in search.outputs:
            continue
        got = observed(search.outputs[name])
        before = per_sample(metric, search.reference, search.reference, data)
        after = per_sample(metric, search.reference, got, data)
        lost = before - after
        worst = [int(n) for n in np.argsort(-lost, kind="stable")[:_WORST] if lost[n] > 0]
        samples += [_sample(search, inputs, name, got, n, float(lost[n])) for n in worst]
    return tuple(samples)


def _sample(search: Search, inputs: Inputs, name: str, got: Observed, n: int, lost: float) -> Sample:
    assert search.reference is not None
    data, labels = search.evaluation.dataset, inputs.target_model.labels
    truth = ""
    if data.labels is not None:
        truth = _label(int(data.labels[n]), labels)
    elif data.boxes is not None:
        truth = f"{len(data.boxes[n])} objects"
    return Sample(
        name=data.names[n],
        candidate=name,
        wanted=truth,
        reference=_answer(search.reference, n, labels, search.runner.manifest.task),
        found=_answer(got, n, labels, search.runner.manifest.task),
        difference=lost,
        picture=_picture(data.inputs, n, search.runner.manifest.pre.color),
    )


def _answer(observed_outputs: Observed, n: int, labels: Sequence[str], task: str) -> str:
    if observed_outputs.items is not None:
        items = observed_outputs.items[n]
        return ", ".join(f"{item.label} {item.score:.2f}" for item in items[:5]) or "nothing"
    first = next(iter(observed_outputs.outputs.values()))[n].ravel()
    if not np.isfinite(first).all():
        return "not finite"
    if task == "classify":
        return _label(int(first.argmax()), labels)
    return np.array2string(first[:6], precision=3, threshold=6)


def _label(index: int, labels: Sequence[str]) -> str:
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def _picture(inputs: dict[str, NDArray[Any]], n: int, color: str) -> str:
    images = [array for array in inputs.values() if array.dtype == np.uint8 and array.ndim == 4]
    if len(images) != 1:
        return ""
    cv2 = vision()
    image = images[0][n]
    scale = _PICTURE_PX / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if color == "RGB":
        image = image[..., ::-1]
    is_encoded, data = cv2.imencode(".png", np.ascontiguousarray(image))
    return f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}" if is_encoded else ""
