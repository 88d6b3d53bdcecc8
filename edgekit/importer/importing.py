"""``import_model``: from foreign files to a bundle that was seen to run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.base.files import sha256_of, sync_tree
from edgekit.core.errors import BackendError, BundleError, EdgekitError, ModelLoadError
from edgekit.core.spec import Finding, Manifest, Variant
from edgekit.core.tasks import task_named
from edgekit.importer.accelerators import KEY, named_accelerators, on_accelerators, runs_here
from edgekit.importer.build import (
    copy_files,
    manifest_of,
    variants_of,
    write_golden,
    write_labels,
    write_manifest,
)
from edgekit.importer.clamped import check_boxes
from edgekit.importer.compare import disagreements, tolerance
from edgekit.importer.decide import Draw, conclude
from edgekit.importer.findings import Conclusion
from edgekit.importer.flags import checked_flags
from edgekit.importer.model_file import ModelFile
from edgekit.importer.pictures import Pictures, made_picture, read_pictures
from edgekit.importer.readers import read_model_file
from edgekit.importer.settle import LOW, settled, with_threshold
from edgekit.importer.sheet import Seen, write_sheet
from edgekit.importer.siblings import adjustments
from edgekit.importer.trial import VariantAnswers, image_size, try_file, try_variant
from edgekit.model.bundle import model_name
from edgekit.model.doctor import facts_with_proofs

_MADE = 2
_GOLDEN = 2
_LOOK = 4
"""Pictures of the user that a file is first tried on."""
_SLACK = 1.5
"""Golden tolerance: the largest difference seen between variants that agree, times this."""
_LEAST_ATOL = 0.02
_LISTS = frozenset({"detections"})
_EDGETPU_OP = "edgetpu-custom-op"
_MOST_FILES = 100
"""Files of one format and precision in one bundle."""


@dataclass(frozen=True)
class Imported:
    """The bundle that was made: its folder, manifest, and what each variant saw on each picture tried."""

    path: Path
    manifest: Manifest
    items: Mapping[str, Sequence[Sequence[dict[str, Any]]]] = field(default_factory=dict)
    pictures: int = 0


def import_model(
    files: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    try_on: Path | str | None = None,
    name: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Imported:
    """Make a bundle of one model's files: recognise them, run them, compare them, record golden samples.

    Args:
        files: ONNX, TFLite or OpenVINO (.xml) files of one model; the first one is the best known.
        out: The bundle's folder; must not exist.
        try_on: A picture or a folder of pictures like those that the model will see; labels beside them
            (``labelled.read_truth``) decide between letterbox and stretch.
        name: The bundle's model name; by default the first file's.
        flags: What the user states: ``decoder``, ``labels``, ``license``, ``accelerators`` (also those that
            are not here), fields of ``pre`` and ``post``, options of the decoder.

    Raises:
        BundleError: A file is damaged, refused by name, of no known family, of two plausible ones, or lacks
            what only the user knows: the error names the flags.
        ModelLoadError: No runtime here opens any of the files.
    """
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(path) for path in files]
    target = Path(out)
    if target.exists():
        raise BundleError(f"{target}: exists already", hint="name another folder, or remove it")
    stated = checked_flags(flags or {})
    named = named_accelerators(stated.pop(KEY, None))
    chosen = read_pictures(Path(try_on) if try_on else None, labels=True)
    made = [made_picture(seed) for seed in range(_MADE)]

    draw = partial(_drawn, paths, target, try_on, stated, chosen)
    opened = [_open(path, stated, [*chosen.pixels[:_LOOK], *made], draw) for path in paths]
    with tempfile.TemporaryDirectory(prefix=".import-", dir=_parent(target)) as folder:
        root = Path(folder) / "bundle"
        root.mkdir()
        manifest, answers = _build(root, name or model_name(paths[0].stem), opened, chosen, made, named)
        sync_tree(root)
        shutil.move(root, target)
    items = {variant: row.items[: len(chosen.pixels[:_LOOK])] for variant, row in answers.items()}
    return Imported(target, manifest, items, len(chosen.pixels))


def _drawn(
    paths: Sequence[Path],
    target: Path,
    try_on: Path | str | None,
    stated: Mapping[str, Any],
    chosen: Pictures,
    families: Sequence[str],
) -> str:
    """Import the files as each of the families, draw what each one sees, and return a phrase on it."""
    if not chosen.pixels:
        return "; with --try FOLDER what each one sees is drawn"
    seen: dict[str, Seen | str] = {}
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            flags = {**stated, "decoder": family}
            try:
                made = import_model(paths, Path(folder) / "bundle", try_on=try_on, flags=flags)
            except EdgekitError as error:
                seen[family] = error.message.removeprefix(f"{paths[0]}: ")
            else:
                seen[family] = made.manifest.task, next(iter(made.items.values()))
    sheet = write_sheet(Path(f"{target}.candidates.png"), chosen.pixels[:_LOOK], seen)
    return f"; {sheet} shows what each one sees"


@dataclass(frozen=True)
class _Opened:
    """A file, what was concluded of it, and whether a runtime here ran it."""

    file: ModelFile
    conclusion: Conclusion
    refusals: Mapping[str, str]

    @property
    def is_compiled(self) -> bool:
        """Whether it holds an operator that only an Edge TPU's runtime has."""
        return _EDGETPU_OP in self.file.operators


def _open(path: Path, stated: Mapping[str, Any], pictures: Sequence[Any], draw: Draw) -> _Opened:
    """Read a file, run it and conclude.

    Raises:
        ModelLoadError: It is an image model that no runtime here runs, and not compiled for an Edge TPU.
        BundleError: As ``conclude`` says, or its boxes are cut.
    """
    file = replace(read_model_file(path), flags=stated)
    file, refusals = try_file(file, pictures)
    if not file.tried and file.image() is not None and _EDGETPU_OP not in file.operators:
        reasons = tuple(f"{backend}: {why}" for backend, why in refusals.items())
        is_new = any("opset" in why.lower() for why in refusals.values())
        raise ModelLoadError(
            f"{file.path}: no runtime here runs it",
            reasons=reasons,
            hint="export it with an older opset (opset=17), or install a newer runtime"
            if is_new
            else "export it for one of these runtimes",
        )
    conclusion = _with_size(conclude(file, draw), file)
    check_boxes(conclusion, file)
    task_named(str(conclusion.value("task")))
    return _Opened(file, conclusion, refusals)


def _parent(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent


def _with_size(conclusion: Conclusion, file: ModelFile) -> Conclusion:
    """Return the conclusion with the size of the picture where the file leaves it free.

    Raises:
        BundleError: The user states another size than the file has.
    """
    size, source = image_size(file)
    stated = file.flags.get("size")
    if source == "signature" and stated and tuple(stated) != size:
        raise BundleError(
            f"{file.path}: its input is {size[0]} x {size[1]} (height x width), size= says {stated}",
            hint="export it at that size, or with free axes",
        )
    if source in ("", "signature", "flag"):
        return conclusion
    found = Finding("size", list(size), source, "the file leaves its size free")  # type: ignore[arg-type]
    return replace(conclusion, findings=(*conclusion.findings, found))


def _variants(opened: Sequence[_Opened], named: Sequence[str]) -> tuple[list[Variant], list[str]]:
    """Return the variants of all files, each with its own id, and the ids of those that cannot run here.

    Those on accelerators come last, so that the processor's judge.

    Raises:
        BundleError: The files are not of one model, or the first one cannot run here.
    """
    first = opened[0]
    if first.is_compiled:
        raise BundleError(
            f"{first.file.path}: is compiled for an Edge TPU, and nothing here can run it",
            hint="name the file that it was compiled from first: its answers become the golden samples",
        )
    facts = facts_with_proofs(Path("/"))[0]
    variants: dict[str, Variant] = {}
    for row in opened:
        for variant in _variants_of(row, first):
            unique = _free_id(variant.id, row.file.format, variants)
            variants[unique] = msgspec.structs.replace(variant, id=unique)
    for variant in list(variants.values()):
        if variant.accelerator == "cpu":
            variants |= {v.id: v for v in on_accelerators(variant, facts, named)}
    made = list(variants.values())
    return made, [v.id for v in made if not runs_here(v, facts)]


def _variants_of(row: _Opened, first: _Opened) -> list[Variant]:
    """Return one file's variants, fed as the first file's manifest says."""
    adjust = adjustments(first.conclusion, first.file, row.conclusion, row.file)
    variants = [msgspec.structs.replace(v, adjust=adjust) for v in variants_of(row.file, row.conclusion)]
    if not row.is_compiled:
        return variants
    return [
        msgspec.structs.replace(v, id=f"{v.id}-edgetpu", accelerator="edgetpu")
        for v in variants
        if v.backend == "litert"
    ]


def _free_id(wanted: str, suffix: str, taken: Container[str]) -> str:
    names = (wanted, f"{wanted}-{suffix}", *(f"{wanted}-{suffix}-{n}" for n in range(1, _MOST_FILES)))
    return next(name for name in names if name not in taken)


def _build(
    root: Path,
    name: str,
    opened: Sequence[_Opened],
    chosen: Pictures,
    made: Sequence[Any],
    named: Sequence[str],
) -> tuple[Manifest, dict[str, VariantAnswers]]:
    file, conclusion = opened[0].file, opened[0].conclusion
    variants, absent = _variants(opened, named)
    for row in opened:
        copy_files(root, row.file)
    manifest = manifest_of(name, conclusion, file, variants)
    labels = write_labels(root, conclusion.value("labels") or ())
    if labels is not None:
        manifest = msgspec.structs.replace(manifest, labels=labels.path, files=(labels,))
    write_manifest(root, manifest)
    wrong = _known_wrong(opened, variants)
    manifest = _settled(root, manifest, [v for v in variants if v.id not in wrong], chosen)
    tried = [v for v in variants if v.id not in (*absent, *wrong)]
    answers, excluded = _try_all(root, tried, [*chosen.pixels[:_LOOK], *made])
    excluded |= wrong
    is_list, is_raw = manifest.post.decoder in _LISTS, manifest.post.decoder == "raw"
    if manifest.pre.columns or (is_raw and len(opened) == 1):  # noise is no row; only files may differ
        answers = {variant: VariantAnswers() for variant in answers}
    state, axis = {row.output for row in manifest.state}, _row_axis(manifest)
    judge, differing = disagreements(
        answers, variants, is_list=is_list, is_noise=is_raw, state=state, axis=axis
    )
    excluded |= differing
    if not judge:
        raise BundleError(
            f"{file.path}: no variant of it gives usable answers here",
            reasons=tuple(f"{variant}: {why}" for variant, why in excluded.items()),
            hint="check the flags; docs/importing.md says what each family expects",
        )
    kept = tuple(v for v in variants if v.id not in excluded)
    manifest = msgspec.structs.replace(
        manifest,
        variants=kept,
        provenance=msgspec.structs.replace(
            manifest.provenance, excluded=excluded, not_compared=tuple(absent)
        ),
    )
    if not is_list:  # the order of a list's rows is no answer
        manifest = _with_golden(root, manifest, judge, answers)
    write_manifest(root, manifest)
    return manifest, {v.id: answers[v.id] for v in kept if v.id in answers}


def _known_wrong(opened: Sequence[_Opened], variants: Sequence[Variant]) -> dict[str, str]:
    """Return why variants are left out untried: their backend is known to answer wrongly for such a file."""
    wrong = {sha256_of(row.file.path): row.file.miscomputed for row in opened if row.file.miscomputed}
    reasons = {v.id: wrong.get(v.files[0].sha256, {}).get(v.backend, "") for v in variants}
    return {variant: why for variant, why in reasons.items() if why}


def _row_axis(manifest: Manifest) -> int:
    """Return the axis of a dense detector's rows of box and scores; 0 for another model."""
    if manifest.post.decoder != "yolo":
        return 0
    return 1 if manifest.post.options.get("layout") == "columns" else 2


def _settled(root: Path, manifest: Manifest, variants: Sequence[Variant], chosen: Pictures) -> Manifest:
    """Return the manifest with what the user's pictures decide, written into the bundle."""

    def run(candidate: Manifest) -> Sequence[Sequence[dict[str, Any]]]:
        write_manifest(root, with_threshold(candidate, LOW))
        for variant in variants:
            with contextlib.suppress(BackendError):
                return try_variant(root, variant.id, chosen.pixels, keep=0).items
        return [[] for _ in chosen.pixels]

    decided = settled(manifest, len(chosen.pixels), run, chosen.truth)
    write_manifest(root, decided)
    return decided


def _try_all(
    root: Path, variants: Sequence[Variant], pictures: Sequence[Any]
) -> tuple[dict[str, VariantAnswers], dict[str, str]]:
    """Return the answers of every variant, and why others gave none."""
    answers, excluded = {}, {}
    for variant in variants:
        try:
            answers[variant.id] = try_variant(root, variant.id, pictures)
        except EdgekitError as error:  # noqa: PERF203 - one variant must not stop the others
            if isinstance(error, BundleError):
                raise
            excluded[variant.id] = error.one_line().replace(f"{root}/", "")
    return answers, excluded


def _with_golden(
    root: Path, manifest: Manifest, judge: str, answers: Mapping[str, VariantAnswers]
) -> Manifest:
    """Return the manifest with golden samples of the judge's answers, as tolerant as the variants differ."""
    right = answers[judge]
    others = [answers[v.id].outputs for v in manifest.variants if v.id != judge and v.id in answers]
    rows, files = [], list(manifest.files)
    for number in range(min(_GOLDEN, len(next(iter(right.inputs.values()), ())))):
        atol = max(_LEAST_ATOL, _SLACK * tolerance(others, right.outputs, number))
        golden, described = write_golden(
            root,
            number,
            {name: arrays[number] for name, arrays in right.inputs.items()},
            {name: arrays[number] for name, arrays in right.outputs.items()},
            float(np.float32(atol)),
            {},
        )
        rows.append(golden)
        files += described
    return msgspec.structs.replace(manifest, golden=tuple(rows), files=tuple(files))
