"""Read pickled arrays without running code that the pickle names.

Two formats pickle arrays: PyTorch's ``.pth`` and NumPy's ``.npy`` of objects. A pickle can call any
function by name; here only the few that rebuild arrays are allowed.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import TrustError

_MAX_BYTES: Final = 1 << 30
_TORCH_MAGIC: Final = 0x1950A86A20F9469CFC6C
_STORAGES: Final = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Allowed(pickle.Unpickler):
    def __init__(
        self,
        file: io.BytesIO,
        names: Mapping[tuple[str, str], Any],
        load: Callable[[Any], Any] | None = None,
        encoding: str = "ASCII",
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._names, self._load = names, load

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the allowed names."""
        try:
            return self._names[module, name]
        except KeyError:
            raise TrustError(
                f"the pickle names {module}.{name}, which is not on the list of allowed names"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Return the array for a reference outside the pickle."""
        if self._load is None:
            raise TrustError("the pickle refers to data outside itself")
        return self._load(pid)


def _unpickle(reader: _Allowed, what: str) -> Any:
    try:
        return reader.load()
    except TrustError as cause:
        raise TrustError(f"{what}: {cause.message}", hint="do not use this file") from cause
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
    ) as cause:
        raise TrustError(f"{what}: the pickle is damaged: {cause}") from cause


def read_pth(path: Path) -> dict[str, NDArray[Any]]:
    """Read a PyTorch state dictionary in the format before PyTorch 1.6: pickles, then raw storages.

    Returns:
        An array for each parameter, in its own dtype.

    Raises:
        TrustError: The file names anything other than tensors, or is damaged.
    """
    file = io.BytesIO(path.read_bytes())
    storages: dict[str, NDArray[Any]] = {}

    def storage(reference: Any) -> NDArray[Any]:
        _, dtype, key, _, count, _ = reference
        if not 0 <= count * dtype.itemsize <= _MAX_BYTES:
            raise TrustError(f"storage {key!r} has {count} values")
        # The values follow the pickle, so the array is filled later.
        return storages.setdefault(str(key), np.zeros(count, dtype))

    names: dict[tuple[str, str], Any] = {("torch", name): kind for name, kind in _STORAGES.items()}
    names["torch._utils", "_rebuild_tensor_v2"] = _tensor
    names["collections", "OrderedDict"] = OrderedDict
    if _unpickle(_Allowed(file, {}), path.name) != _TORCH_MAGIC:
        raise TrustError(f"{path.name}: is not a PyTorch file of the old format")
    for _ in ("protocol", "system"):
        _unpickle(_Allowed(file, {}), path.name)
    tensors = _unpickle(_Allowed(file, names, storage), path.name)
    if not isinstance(tensors, dict) or not all(isinstance(value, np.ndarray) for value in tensors.values()):
        raise TrustError(f"{path.name}: is not a dictionary of tensors")
    for key in _unpickle(_Allowed(file, {}), path.name):
        _fill(storages, str(key), file, path.name)
    return {str(name): value.copy() for name, value in tensors.items()}


def _fill(storages: dict[str, NDArray[Any]], key: str, file: io.BytesIO, what: str) -> None:
    if key not in storages:
        raise TrustError(f"{what}: storage {key!r} belongs to no tensor")
    count = int.from_bytes(file.read(8), "little", signed=True)
    data = file.read(storages[key].nbytes)
    if count != storages[key].size or len(data) != storages[key].nbytes:
        raise TrustError(f"{what}: storage {key!r} is cut off")
    storages[key][:] = np.frombuffer(data, storages[key].dtype)


def _tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> NDArray[Any]:
    """Return a view of a storage; filled when the storage is."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    is_outside = offset < 0 or min(stride, default=0) < 0 or last >= max(storage.size, 1)
    if is_outside or min(size, default=1) < 0:
        raise TrustError("a tensor reaches outside its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def read_object_npy(path: Path) -> NDArray[Any]:
    """Read an ``.npy`` file whose elements are pickled Python objects made of arrays.

    Raises:
        TrustError: The file names anything other than arrays, or is damaged.
    """
    data = io.BytesIO(path.read_bytes())
    try:
        version = np.lib.format.read_magic(data)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        read(data)
    except ValueError as cause:
        raise TrustError(f"{path.name}: is not an .npy file: {cause}") from cause
    # The functions that pickled arrays and scalars call, under the module name of any NumPy version.
    rebuild, scalar = np.empty(0).__reduce__()[0], np.float64().__reduce__()[0]
    names: dict[tuple[str, str], Any] = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names |= {(module, "_reconstruct"): rebuild, (module, "scalar"): scalar}
    names["_codecs", "encode"] = _encode
    array = _unpickle(_Allowed(data, names, encoding="latin1"), path.name)
    if not isinstance(array, np.ndarray):
        raise TrustError(f"{path.name}: does not hold an array")
    return array


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)
