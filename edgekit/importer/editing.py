"""Changes of a bundle's folder: fields set, variants added, packed into one file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.errors import BundleError, UsageError
from edgekit.core.spec import Finding, Manifest, Post, Pre, Variant, VariantFile
from edgekit.importer.build import described, plain, write_labels, write_manifest
from edgekit.importer.findings import POST_KEYS, pre_keys_of
from edgekit.model.bundle import Bundle, open_bundle

_PLAIN = ("license", "version", "model", "task")
_LISTS = frozenset({"mean", "std"})


def editable(path: Path | str) -> Bundle:
    """Return the bundle of a folder.

    Raises:
        BundleError: It is no bundle, or no folder.
    """
    bundle = open_bundle(path)
    if bundle.is_bare or not Path(path).is_dir():
        raise BundleError(f"{path}: only a bundle's folder can be changed", hint="import or unpack it first")
    return bundle


def set_fields(path: Path | str, flags: Mapping[str, Any]) -> Manifest:
    """Change fields of a bundle: those of ``edgekit import``, and license, version, model, task.

    Golden samples are dropped where preprocessing changes: they no longer say what the model is fed.

    Raises:
        BundleError: The bundle cannot be changed, or the result is not valid.
        UsageError: A value does not fit its field.
    """
    bundle = editable(path)
    manifest = bundle.manifest
    pre_keys = pre_keys_of(manifest.post.decoder)
    pre = {key: plain(value) for key, value in flags.items() if key in pre_keys}
    pre |= {key: [value] for key, value in pre.items() if key in _LISTS and not isinstance(value, list)}
    post = {key: value for key, value in flags.items() if key in POST_KEYS}
    own = {key: str(flags[key]) for key in _PLAIN if key in flags}
    known = pre_keys | POST_KEYS | {*_PLAIN, "labels"}
    options = {key: plain(value) for key, value in flags.items() if key not in known}
    if options:
        post["options"] = manifest.post.options | options
    try:
        changed = msgspec.structs.replace(
            manifest,
            pre=msgspec.convert(msgspec.to_builtins(manifest.pre) | pre, Pre),
            post=msgspec.convert(msgspec.to_builtins(manifest.post) | post, Post),
            **own,
        )
    except msgspec.ValidationError as cause:
        raise UsageError(f"a value does not fit: {cause}", hint="docs/bundle.md has every field") from cause
    if pre:
        changed = without_golden(changed)
    if "labels" in flags:
        changed = _with_labels(bundle.root, changed, flags["labels"])
    stated = [Finding(key, plain(value), "flag", "edgekit bundle set") for key, value in flags.items()]
    changed = _noted(changed, stated)
    write_manifest(bundle.root, changed)
    return changed


def without_golden(manifest: Manifest) -> Manifest:
    """Return a manifest without its golden samples and their files."""
    paths = {path for row in manifest.golden for path in (row.inputs, row.outputs)}
    files = tuple(file for file in manifest.files if file.path not in paths)
    return msgspec.structs.replace(manifest, golden=(), files=files)


def _with_labels(root: Path, manifest: Manifest, labels: tuple[str, ...]) -> Manifest:
    file = write_labels(root, labels)
    files = tuple(row for row in manifest.files if row.path != manifest.labels)
    if file is None:
        return msgspec.structs.replace(manifest, labels="", files=files)
    return msgspec.structs.replace(manifest, labels=file.path, files=(*files, file))


def _noted(manifest: Manifest, stated: list[Finding]) -> Manifest:
    keys = {row.key for row in stated}
    kept = tuple(row for row in manifest.provenance.conclusions if row.key not in keys)
    origin = msgspec.structs.replace(manifest.provenance, conclusions=(*kept, *stated))
    return msgspec.structs.replace(manifest, provenance=origin)


def add_variant(path: Path | str, file: Path, *, like: str, changes: Mapping[str, Any]) -> Manifest:
    """Add a file as a variant that did not run here; the bundle's golden samples judge it on the device.

    Args:
        path: The bundle's folder.
        file: The variant's file, such as one compiled for an Edge TPU or a TensorRT engine.
        like: The variant whose tensor names and options it shares.
        changes: Its own ``backend``, ``accelerator``, ``precision``, ``id``.

    Raises:
        BundleError: The bundle has no golden samples, no variant ``like``, or one of that id.
        UsageError: A value does not fit its field.
    """
    bundle = editable(path)
    manifest = bundle.manifest
    sibling = next((v for v in manifest.variants if v.id == like), None)
    if sibling is None or not manifest.golden:
        problem = "has no golden samples to judge it by" if sibling else f"has no variant {like!r}"
        known = ", ".join(v.id for v in manifest.variants)
        raise BundleError(f"{bundle.source} {problem}", hint=f"its variants: {known}")
    words = (changes.get(key, getattr(sibling, key)) for key in ("backend", "precision", "accelerator"))
    identity = "-".join(map(str, words))
    row = {"id": identity} | msgspec.to_builtins(changes)
    target = bundle.root / "variants" / str(row["id"]) / file.name
    fresh: dict[str, Any] = {"quality": None, "cost": [], "requires": {}}
    try:
        variant = msgspec.convert(msgspec.to_builtins(sibling) | fresh | row | {"files": []}, Variant)
    except msgspec.ValidationError as cause:
        raise UsageError(f"a value does not fit: {cause}", hint="docs/bundle.md has every field") from cause
    if any(v.id == variant.id for v in manifest.variants):
        raise BundleError(
            f"{bundle.source} has a variant {variant.id!r} already", hint="give another id=NAME"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.read_bytes())
    files = (described(bundle.root, str(target.relative_to(bundle.root))),)
    variant = msgspec.structs.replace(variant, files=files)
    origin = msgspec.structs.replace(
        manifest.provenance, not_compared=(*manifest.provenance.not_compared, variant.id)
    )
    manifest = msgspec.structs.replace(manifest, variants=(*manifest.variants, variant), provenance=origin)
    write_manifest(bundle.root, manifest)
    return manifest


def pack(path: Path | str, out: Path) -> int:
    """Write a bundle's folder as one uncompressed tar, every hash checked first; return its bytes.

    Raises:
        BundleError: It is no folder of a bundle, or ``out`` exists.
        HashMismatchError: A file differs from the one listed.
    """
    bundle = editable(path)
    bundle.check_hashes()
    if out.exists():
        raise BundleError(f"{out}: exists already", hint="name another file, or remove it")
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as archive:
        _add(archive, VariantFile(path="bundle.json", bytes=0, sha256=""), bundle.root)
        for file in bundle.manifest.every_file():
            _add(archive, file, bundle.root)
    return out.stat().st_size


def _add(archive: tarfile.TarFile, file: VariantFile, root: Path) -> None:
    data = (root / file.path).read_bytes()
    info = tarfile.TarInfo(file.path)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))
