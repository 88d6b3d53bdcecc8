"""Writes the bundle that a conclusion describes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.base.files import sha256_of
from edgekit.core.errors import BundleError
from edgekit.core.select import wrong_arithmetic
from edgekit.core.spec import (
    Finding,
    Golden,
    Manifest,
    Post,
    Pre,
    Provenance,
    TensorSpec,
    Variant,
    VariantFile,
    parse_manifest,
)
from edgekit.importer.findings import OWN_KEYS, POST_KEYS, Conclusion, pre_keys_of
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import fixed_shapes, image_size
from edgekit.model.bundle import BARE
from edgekit.model.doctor import facts_with_proofs

LABELS = "labels.txt"
_SEQUENCES = frozenset({"mean", "std"})


def manifest_of(name: str, conclusion: Conclusion, file: ModelFile, variants: Sequence[Variant]) -> Manifest:
    """Return the manifest that a conclusion about a file describes, without labels, golden samples or hashes.

    Raises:
        BundleError: A finding does not fit the format.
    """
    findings = tuple(msgspec.structs.replace(row, value=plain(row.value)) for row in conclusion.findings)
    values = {row.key: row.value for row in findings}
    pre_keys = pre_keys_of(str(values.get("decoder")))
    pre = {key: values[key] for key in values if key in pre_keys}
    for key in _SEQUENCES & pre.keys():
        pre[key] = pre[key] if isinstance(pre[key], list) else [pre[key]]
    if values.get("layout") == "transposed":
        pre["is_transposed"] = bool(values.pop("layout"))
    known = pre_keys | POST_KEYS | OWN_KEYS
    post = {key: values[key] for key in values if key in POST_KEYS}
    post["options"] = {key: value for key, value in values.items() if key not in known}
    try:
        return Manifest(
            format=1,
            model=name,
            version="1.0.0",
            task=str(values["task"]),
            license=str(values.get("license", "")),
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            inputs=_inputs(conclusion, file),
            outputs=_outputs(conclusion, file),
            pre=msgspec.convert(pre, Pre),
            post=msgspec.convert(post, Post),
            state=tuple(conclusion.state),
            constants=dict(conclusion.constants),
            variants=tuple(variants),
            provenance=Provenance(source=file.path.name, family=conclusion.family, conclusions=findings),
        )
    except msgspec.ValidationError as cause:
        raise BundleError(f"{file.path}: a flag does not fit: {cause}", hint="see docs/bundle.md") from cause


def plain(value: Any) -> Any:
    """Return a finding's value as JSON holds it: tuples and sets as lists."""
    return msgspec.to_builtins(value)


def _inputs(conclusion: Conclusion, file: ModelFile) -> tuple[TensorSpec, ...]:
    declared = {tensor.name: tensor for tensor in file.inputs}
    named = tuple(
        TensorSpec(
            name=name,
            datatype=row.datatype or _real(declared[row.tensor].datatype),  # type: ignore[arg-type]
            shape=row.shape or declared[row.tensor].shape,
        )
        for name, row in conclusion.inputs.items()
    )
    image = file.image()
    if not conclusion.takes_image:
        return named
    if image is None:
        raise BundleError(f"{file.path}: has no image input", hint="the family's row must name its inputs")
    (height, width), _ = image_size(file)
    shape = (1, height, width, image.channels)
    return (TensorSpec(name="image", datatype="UINT8", shape=shape, layout="NHWC"), *named)


def _outputs(conclusion: Conclusion, file: ModelFile) -> tuple[TensorSpec, ...]:
    declared = {tensor.name: tensor for tensor in file.outputs}
    batch = _batch_of(file, conclusion)
    return tuple(
        TensorSpec(
            name=name,
            datatype="FP32" if conclusion.value("decoder") != "raw" else _real(declared[row.tensor].datatype),  # type: ignore[arg-type]
            shape=row.shape or _of_one(file.shape_of(declared[row.tensor]), batch),
            layout=row.layout,
        )
        for name, row in conclusion.outputs.items()
    )


def _of_one(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """Return an output's shape for one sample of a fixed batch."""
    return (1, *shape[1:]) if batch > 1 and shape[:1] == (batch,) else shape


def _batch_of(file: ModelFile, conclusion: Conclusion) -> int:
    """Return the samples that a file always takes at once."""
    image, first = file.image(), file.inputs[0].shape[:1] if file.inputs else ()
    if image is not None and conclusion.takes_image:
        return image.tensor.shape[0] if len(image.tensor.shape) > 3 else 1
    return first[0] if first and conclusion.value("columns") else 1


def _real(datatype: str) -> str:
    return datatype if datatype in ("INT64", "INT32", "BYTES", "BOOL", "FP64") else "FP32"


def variants_of(file: ModelFile, conclusion: Conclusion) -> list[Variant]:
    """Return a variant for each runtime that opens files of this format; paths are the bundle's.

    Where OpenVINO's int8 sums would saturate on this CPU, its variant computes in floats.
    """
    image, folder = file.image(), f"variants/{_folder(file)}"
    inputs = {name: row.tensor for name, row in conclusion.inputs.items()}
    if image is not None and conclusion.takes_image:
        inputs["image"] = image.tensor.name
    shapes = {**fixed_shapes(file), **{name: list(shape) for name, shape in conclusion.shapes.items()}}
    batch = _batch_of(file, conclusion)
    variants = [
        Variant(
            id=f"{backend}-{file.precision}",
            backend=backend,
            precision=file.precision,
            files=tuple(
                VariantFile(path=f"{folder}/{part.name}", bytes=part.stat().st_size, sha256=sha256_of(part))
                for part in file.parts
            ),
            inputs=inputs,
            outputs={name: row.tensor for name, row in conclusion.outputs.items()},
            layout=image.layout if image is not None and conclusion.takes_image else "",
            batch=(batch,) if batch > 1 else (),
            options={"shapes": shapes} if shapes else {},
        )
        for backend in BARE[file.path.suffix.lower()]
    ]
    facts = facts_with_proofs(Path("/"))[0]
    return [as_float(v) if wrong_arithmetic(v, facts.arch, facts.cpu_features) else v for v in variants]


def as_float(variant: Variant) -> Variant:
    """Return an OpenVINO int8 variant that computes in floats: slower, and right on every CPU."""
    options = {**variant.options, "properties": {"LP_TRANSFORMS_MODE": "NO"}}
    return msgspec.structs.replace(variant, id=f"{variant.id}-as-float", options=options)


def _folder(file: ModelFile) -> str:
    return f"{file.format}-{file.precision}-{sha256_of(file.path)[:8]}"


def copy_files(root: Path, file: ModelFile) -> None:
    """Copy a file and its parts into the bundle's folder, where ``variants_of`` lists them."""
    folder = root / "variants" / _folder(file)
    folder.mkdir(parents=True, exist_ok=True)
    for part in file.parts:
        shutil.copyfile(part, folder / part.name)


def write_labels(root: Path, labels: Sequence[str]) -> VariantFile | None:
    """Write the labels, ``_`` read as a blank; return the file's row, or None without labels."""
    if not labels:
        return None
    path = root / LABELS
    path.write_text("".join(f"{_readable(label)}\n" for label in labels), encoding="utf-8")
    return described(root, LABELS)


def _readable(label: str) -> str:
    """Return a label with blanks for underscores; a single character is one that a model reads, and stays."""
    return label if len(label) == 1 else label.replace("_", " ").strip()


def described(root: Path, path: str) -> VariantFile:
    """Return a file of the bundle as its manifest lists it."""
    return VariantFile(path=path, bytes=(root / path).stat().st_size, sha256=sha256_of(root / path))


def write_golden(
    root: Path,
    number: int,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    atol: float,
    atol_by_precision: Mapping[str, float],
) -> tuple[Golden, list[VariantFile]]:
    """Write one golden sample; return its row and its files' rows."""
    (root / "golden").mkdir(exist_ok=True)
    paths = f"golden/{number}.npz", f"golden/{number}.out.npz"
    for path, arrays in zip(paths, (inputs, outputs), strict=True):
        np.savez_compressed(root / path, **arrays)
    golden = Golden(inputs=paths[0], outputs=paths[1], atol=atol, atol_by_precision=dict(atol_by_precision))
    return golden, [described(root, path) for path in paths]


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``bundle.json``, checked as a reader checks it.

    Raises:
        BundleError: The manifest is not valid.
    """
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    parse_manifest(data, str(root / "bundle.json"))
    (root / "bundle.json").write_bytes(data)


def findings_text(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """Return (key, value, source, why) of each finding as text, the value shortened."""
    return [(row.key, _short(row.value), row.source, row.why) for row in findings]


def _short(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > 6:
        return f"{len(value)}: {', '.join(map(str, value[:3]))}, ..."
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
