"""Picture files as frames: which files of a folder are pictures, and the one way to decode them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.base.picture_header import check_image
from edgekit.core.errors import ConfigError, TensorError
from edgekit.pipeline.pre import vision

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MOST_FILES = 500_000
MOST_PIXELS = 1 << 27
"""402 MB decoded; a telephone's largest picture has 108 million pixels."""
MOST_BYTES = 1 << 29
_NUMBER = re.compile(r"(\d+)")


def decode_picture(data: bytes, name: str) -> NDArray[np.uint8]:
    """Return an encoded picture, shape (height, width, 3), uint8, BGR, turned as its EXIF rotation says.

    Its size is checked before memory is taken for it; 16 bits a value become 8, grey becomes BGR.

    Args:
        data: A JPEG, PNG, BMP, WebP, TIFF or PNM file.
        name: Names it in errors.

    Raises:
        TensorError: It is no whole picture, or has more than ``MOST_PIXELS``.
        ConfigError: OpenCV is not installed.
    """
    cv2 = vision()
    try:
        check_image(data, MOST_PIXELS)
        pixels: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except TensorError as error:
        raise TensorError(f"{name}: cannot be read: {error.message}") from error
    except cv2.error as cause:
        raise TensorError(f"{name}: cannot be read: {cause}") from cause
    if pixels is None:
        raise TensorError(f"{name}: cannot be read: it is damaged or cut off")
    return pixels


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture file's pixels, as ``decode_picture`` does; its name may be any bytes.

    Raises:
        TensorError: It cannot be read or decoded.
    """
    name = readable(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise TensorError(f"{name}: is larger than {MOST_BYTES >> 20} MiB")
        data = path.read_bytes()
    except OSError as cause:
        raise TensorError(f"{name}: cannot be read: {cause.strerror}") from cause
    return decode_picture(data, name)


def list_pictures(folder: Path) -> list[str]:
    r"""Return the paths of a folder's pictures, relative to it with ``/``, without hidden ones.

    By folder (a folder of class folders gives class after class), then by the numbers in the names:
    ``9.jpg`` before ``10.jpg``.

    Raises:
        ConfigError: There are more than ``MOST_FILES``.
    """
    names: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(parent).relative_to(folder)
        names += [(inner / name).as_posix() for name in files if is_picture(name)]
        if len(names) > MOST_FILES:
            raise ConfigError(f"{folder}: more than {MOST_FILES} pictures", hint="use a part of them")
    return sorted(names, key=picture_order)


def picture_order(name: str) -> tuple[object, object]:
    """Return a sort key for paths: by folder, then by the numbers in the name."""
    return natural(name.rpartition("/")[0]), natural(name)


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture, and not hidden."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a natural sort key: ``frame9`` before ``frame10``."""
    parts = _NUMBER.split(name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def readable(path: Path | str) -> str:
    r"""Return a path as text that any encoder takes: bytes that are not UTF-8 as ``\xe4``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name that native libraries take: in OpenCV one that is not UTF-8 would end the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        yield str(path)
