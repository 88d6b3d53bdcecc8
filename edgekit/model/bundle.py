"""Opens bundles: a folder, an ``.ekb`` tar, or a bare model file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgekit.backends.file_facts import file_facts, mapped
from edgekit.base.disk import sync_path
from edgekit.base.files import sha256_of, sync_tree
from edgekit.base.paths import cache_dir
from edgekit.base.plugins import READERS
from edgekit.core.archive import check_members, checked, pieces, read_index, read_manifest
from edgekit.core.errors import BundleError, StorageError
from edgekit.core.spec import BackendName, Manifest, Variant, VariantFile, parse_manifest

# backends that can open a bare model file, best first; each becomes a variant
BARE: dict[str, tuple[BackendName, ...]] = {
    ".tflite": ("litert", "openvino"),
    ".onnx": ("onnxruntime", "openvino"),
    ".xml": ("openvino",),
}
_TARS = frozenset({"", ".ekb", ".tar"})
_COMPRESSIBLE = frozenset({".pt2", ".keras", ".h5", ".hdf5"})
_FOREIGN = _COMPRESSIBLE.union(
    (".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".jit", ".pb", ".engine", ".hef", ".rknn")
)
_PIECE_BYTES = 1 << 20
_WANTED = "give a bundle folder, an .ekb file, or a .tflite, .onnx or .xml model"


class Bundle(msgspec.Struct, frozen=True):
    """A manifest and the folder with its files.

    ``source`` is the path that was opened; ``digest`` is the SHA-256 of the manifest's bytes, which
    identifies the bundle's content.
    """

    manifest: Manifest
    root: Path
    source: Path
    digest: str
    is_bare: bool = False

    def path(self, variant: Variant) -> Path:
        """Return the file that a variant's runtime opens."""
        return self.root / variant.files[0].path if variant.files else self.root

    def labels(self) -> tuple[str, ...]:
        """Return the labels, one per class; empty if the bundle has none.

        Raises:
            BundleError: The file is missing or is not text.
        """
        if not self.manifest.labels:
            return ()
        try:
            return tuple((self.root / self.manifest.labels).read_text("utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as cause:
            raise BundleError(f"{self.source}: labels cannot be read: {cause}") from cause

    def check_hashes(self) -> None:
        """Hash every file and compare it with the manifest.

        Raises:
            HashMismatchError: A file differs from the one listed.
            BundleError: A file is missing.
        """
        for file in self.manifest.every_file():
            for _ in checked(_file_pieces(self.root / file.path), file, str(self.source)):
                pass


def open_bundle(path: Path | str, unpack_to: Path | None = None) -> Bundle:
    """Return a bundle's manifest and files.

    A folder's files are checked for presence and size only (``check_hashes`` reads them). A tar is unpacked
    once below ``unpack_to``, every hash checked. A bare ``.tflite``, ``.onnx`` or ``.xml`` is a bundle of raw
    tensors, with one variant per backend that can open it, at the precision its layers compute in.

    Args:
        path: Folder, ``.ekb`` file, or model file.
        unpack_to: Where tars are unpacked; edgekit's cache folder by default.

    Raises:
        BundleError: It is not a bundle, or is truncated, malformed or hostile.
        HashMismatchError: A tar's member differs from the file its manifest lists.
        StorageError: There is no room to unpack it.
    """
    source = Path(path)
    if source.is_dir():
        return _open_folder(source)
    if not source.is_file():
        raise BundleError(f"{source}: no such bundle or model file", hint=_WANTED)
    suffix = source.suffix.lower()
    if suffix in BARE:
        return _open_bare(source)
    if suffix in _FOREIGN:
        raise _no_runtime(source, suffix)
    if suffix not in _TARS and not _looks_like_tar(source):
        raise BundleError(
            f"{source}: no reader for {suffix} files is installed (group {READERS})", hint=_WANTED
        )
    return _open_tar(source, unpack_to)


def _looks_like_tar(source: Path) -> bool:
    try:
        with source.open("rb") as file:
            return file.read(262)[257:] == b"ustar"
    except OSError as cause:
        raise BundleError(f"{source}: cannot be read: {cause.strerror}") from cause


def _no_runtime(source: Path, suffix: str) -> BundleError:
    makes = "edgekit optimize reads {} and makes a bundle of it"
    if suffix in _COMPRESSIBLE:
        hint = makes.format("it") + f": edgekit optimize {source.name} --data DATA -o BUNDLE"
    else:
        hint = makes.format("an export (.onnx, .tflite, .pt2, .keras)") + "; export the model to one of these"
    return BundleError(f"{source}: no runtime of edgekit opens a {suffix} file", hint=hint)


def _open_folder(source: Path) -> Bundle:
    try:
        data = (source / "bundle.json").read_bytes()
    except OSError as cause:
        raise BundleError(f"{source}: bundle.json cannot be read: {cause.strerror}") from cause
    manifest = parse_manifest(data, str(source / "bundle.json"))
    listed = (row.path for row in manifest.every_file())
    sizes = {path: file.stat().st_size for path in listed if (file := source / path).is_file()}
    check_members(manifest, sizes, str(source))
    return Bundle(manifest, source, source, hashlib.sha256(data).hexdigest())


def _open_bare(source: Path) -> Bundle:
    suffix, weights = source.suffix.lower(), source.with_suffix(".bin")
    files = [_describe(source)]
    if suffix == ".xml" and weights.is_file():
        files.append(_describe(weights))
    precision = file_facts(mapped(source), suffix).precision if files[0].bytes else "fp32"
    variants = tuple(
        Variant(id=f"{backend}-file", backend=backend, precision=precision, files=tuple(files))
        for backend in BARE[suffix]
    )
    manifest = Manifest(
        format=1,
        model=model_name(source.stem),
        version="0.0.0",
        task="raw",
        inputs=(),
        outputs=(),
        variants=variants,
    )
    digest = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    return Bundle(manifest, source.parent, source, digest, is_bare=True)


def _describe(path: Path) -> VariantFile:
    try:
        return VariantFile(path=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))
    except OSError as cause:
        raise BundleError(f"{path}: cannot be read: {cause.strerror}") from cause


def model_name(stem: str) -> str:
    """Return a file's name as a model's name."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in stem.lower()).strip("-")
    return plain[:64].strip("-") or "model"


def _file_pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece
    except OSError as cause:
        raise BundleError(f"{path}: cannot be read: {cause.strerror}") from cause


def _open_tar(source: Path, unpack_to: Path | None) -> Bundle:
    folder = unpack_to or cache_dir() / "bundles"
    with source.open("rb") as stream:
        index = read_index(stream, str(source))
        manifest, data = read_manifest(stream, index, str(source))
        digest = hashlib.sha256(data).hexdigest()
        root = folder / f"{manifest.model}-{manifest.version}-{digest[:16]}"
        if not root.is_dir():
            contents = {"bundle.json": iter((data,))} | {
                file.path: checked(pieces(stream, index[file.path]), file, str(source))
                for file in manifest.every_file()
            }
            _unpack(contents, root, source)
    opened = _open_folder(root)
    return Bundle(opened.manifest, root, source, digest)


def _unpack(contents: dict[str, Iterator[bytes]], root: Path, source: Path) -> None:
    import shutil  # with its compressors, 0.5 MB that an open folder does not need

    temporary = root.with_name(f".{root.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        for path, parts in contents.items():
            _write(temporary / path, parts)
        sync_tree(temporary)
        temporary.rename(root)
        sync_path(root.parent)
    except OSError as cause:
        if not root.is_dir():  # else another process unpacked the same bundle first
            raise StorageError(
                f"{source} cannot be unpacked below {root.parent}: {cause.strerror}",
                hint="free some space, or set EDGEKIT_CACHE to a folder with room",
            ) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(path: Path, parts: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
