"""Known faces, products, people ...: names and the vectors that one model gave for their pictures.

A gallery is one file on the device, and belongs to one bundle by its digest: the vectors of two models, even
of two exports of one network, cannot be compared.

    gallery = edgekit.load("faces.ekb").new_gallery()
    gallery.add("Ada", vector)
    gallery.save("known.json")
    edgekit.load("faces.ekb", gallery="known.json").predict(picture).best.label
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, TensorError
from edgekit.core.structure import decode_json

FORMAT = 1
_AGAIN = "make it again with this model: edgekit gallery add BUNDLE GALLERY NAME PICTURE..."


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    model: str
    digest: str
    vectors: dict[str, list[list[float]]]


class Gallery:
    """Names and their vectors, each of length 1.

    Args:
        model: Name and version of the model that made the vectors, for messages.
        digest: The digest of its bundle.
        vectors: Vectors by name, of any length above 0.

    Raises:
        TensorError: A vector is empty, all zero, not finite, or has another number of values.
    """

    def __init__(
        self, model: str, digest: str, vectors: Mapping[str, list[list[float]]] | None = None
    ) -> None:
        self.model, self.digest = model, digest
        self._vectors: dict[str, list[NDArray[np.float32]]] = {}
        self._rows: tuple[list[str], NDArray[np.float32]] | None = None
        for name, some in (vectors or {}).items():
            for vector in some:
                self.add(name, vector)

    @property
    def counts(self) -> dict[str, int]:
        """The number of vectors of each name."""
        return {name: len(vectors) for name, vectors in self._vectors.items()}

    def add(self, name: str, vector: ArrayLike) -> None:
        """Add one picture's vector under a name; several make it surer."""
        if not name.strip() or name == UNKNOWN:
            raise ConfigError(f"gallery: want a name that is not empty and not {UNKNOWN!r}, got {name!r}")
        unit = unit_vector(np.asarray(vector, np.float32))
        length = next((len(known[0]) for known in self._vectors.values()), len(unit))
        if len(unit) != length:
            raise TensorError(f"gallery: want a vector of {length} values, got {len(unit)}")
        self._vectors.setdefault(name, []).append(unit)
        self._rows = None

    def remove(self, name: str) -> None:
        """Forget a name and its vectors.

        Raises:
            ConfigError: There is no such name.
        """
        if self._vectors.pop(name, None) is None:
            names = ", ".join(map(repr, sorted(self._vectors))) or "none"
            raise ConfigError(f"gallery: there is no {name!r}", hint=f"known names: {names}")
        self._rows = None

    def nearest(self, unit: NDArray[np.float32]) -> tuple[str, float, float]:
        """Return the nearest name, its cosine, and by how much that is above the next name's.

        Args:
            unit: A vector of length 1.

        Returns:
            ``("", -1.0, 0.0)`` for an empty gallery; alone, a name's lead is its cosine plus 1.

        Raises:
            TensorError: The vector has another number of values than the gallery's.
        """
        if not self._vectors:
            return "", -1.0, 0.0
        if self._rows is None:
            names = [name for name, some in self._vectors.items() for _ in some]
            self._rows = names, np.stack([vector for some in self._vectors.values() for vector in some])
        names, rows = self._rows
        if len(unit) != rows.shape[1]:
            raise TensorError(f"gallery: its vectors have {rows.shape[1]} values, the model's {len(unit)}")
        cosines = rows @ unit
        best = int(cosines.argmax())
        others = cosines[[name != names[best] for name in names]]
        return names[best], float(cosines[best]), float(cosines[best] - others.max(initial=-1.0))

    def save(self, path: Path | str) -> None:
        """Write the file, durably and whole: after a power cut it is the old or the new one.

        Raises:
            StorageError: It cannot be written.
        """
        vectors = {name: [row.tolist() for row in rows] for name, rows in self._vectors.items()}
        file = _File(format=FORMAT, model=self.model, digest=self.digest, vectors=vectors)
        write_durably(Path(path), msgspec.json.encode(file), mode=0o600)


UNKNOWN = "unknown"
"""The label of what is near to no name."""


def unit_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector at length 1, flat.

    Raises:
        TensorError: It is empty, all zero, or has a value that is not finite.
    """
    flat = vector.reshape(-1)
    length = float(np.linalg.norm(flat.astype(np.float64)))
    if not (np.isfinite(length) and length > 0):
        raise TensorError(f"want a vector with a length, got {len(flat)} values of length {length}")
    return np.asarray(flat / length, np.float32)


def read_gallery(path: Path | str, model: str, digest: str) -> Gallery:
    """Return the gallery in a file.

    Args:
        path: The file.
        model: Name and version of the model that is to use it.
        digest: The digest of that model's bundle.

    Raises:
        ConfigError: The file cannot be read, is no gallery, or belongs to another model.
        TensorError: A vector in it is not valid.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as cause:
        raise ConfigError(f"gallery {path}: cannot be read: {cause.strerror}", hint=_AGAIN) from cause
    file = decode_json(data, _File, f"gallery {path}", ConfigError)
    if file.format != FORMAT:
        raise ConfigError(f"gallery {path}: format: want {FORMAT}, got {file.format}")
    if file.digest != digest:
        raise ConfigError(
            f"gallery {path}: belongs to {file.model} with digest {file.digest[:16]}, "
            f"and the model is {model} with digest {digest[:16]}: their vectors cannot be compared",
            hint=_AGAIN,
        )
    return Gallery(file.model, file.digest, file.vectors)
