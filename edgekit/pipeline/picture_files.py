"""Picture files as frames: which files of a folder are pictures, and the one way to decode them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.base.picture_header import check_image
from edgekit.core.errors import ConfigError, TensorError
from edgekit.pipeline.pre import vision

logger = logging.getLogger(__name__)
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
        raise TensorError(f"{name}: cannot be read: it is damaged, cut off, or of a form that OpenCV lacks")
    return pixels


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a picture file's pixels, as ``decode_picture`` does; its name may be any bytes.

    Raises:
        TensorError: It cannot be read or decoded.
    """
    name = readable(path)
    try:
        data = picture_bytes(path)
    except OSError as cause:
        raise TensorError(f"{name}: cannot be read: {cause.strerror}") from cause
    return decode_picture(data, name)


def picture_bytes(path: Path) -> bytes:
    """Return a picture file's content.

    Raises:
        OSError: It is not there, or cannot be read.
        TensorError: It is no file, or larger than ``MOST_BYTES``.
    """
    # a pipe or a line in the file's place would be waited for
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise TensorError(f"{readable(path)}: cannot be read: it is no file")
        data = b"" if facts.st_size > MOST_BYTES else file.read(MOST_BYTES + 1)
    if facts.st_size > MOST_BYTES or len(data) > MOST_BYTES:
        raise TensorError(f"{readable(path)}: is larger than {MOST_BYTES >> 20} MiB")
    return data


def list_pictures(folder: Path) -> list[str]:
    r"""Return the paths of a folder's pictures, relative to it with ``/``, without hidden ones.

    By folder (a folder of class folders gives class after class), then by the numbers in the names:
    ``9.jpg`` before ``10.jpg``. A folder in it that cannot be read is named in the log.

    Raises:
        ConfigError: There are more than ``MOST_FILES``, or the folder cannot be read.
    """
    names: list[str] = []
    try:
        for name, _ in walk_pictures(folder, left_out):
            names.append(name)
            if len(names) > MOST_FILES:
                raise ConfigError(f"{folder}: more than {MOST_FILES} pictures", hint="use a part of them")
    except OSError as cause:
        raise ConfigError(f"{readable(folder)}: cannot be read: {cause.strerror}") from cause
    return sorted(names, key=picture_order)


def left_out(path: str, cause: OSError) -> None:
    """Log that a part of a folder is left out."""
    logger.warning("%s: cannot be read and is left out: %s", readable(path), cause.strerror)


def walk_pictures(
    folder: Path,
    on_problem: Callable[[str, OSError], object],
    on_folder: Callable[[str], object] = lambda _path: None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (path relative to the folder, its entry) of what is named like a picture, at any depth.

    Hidden folders are left out and links to folders are not followed. What vanishes meanwhile is no problem.

    Args:
        folder: Where to begin.
        on_problem: Called with a folder in it that cannot be read.
        on_folder: Called with each folder before it is read.

    Raises:
        OSError: The folder itself cannot be read.
    """
    waiting = [(str(folder), "")]
    while waiting:
        path, inner = waiting.pop()
        try:
            on_folder(path)
            with os.scandir(path) as entries:
                found = list(entries)
        except OSError as cause:
            if not inner:
                raise
            if not isinstance(cause, FileNotFoundError):
                on_problem(path, cause)
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                if not entry.name.startswith("."):
                    waiting.append((entry.path, inner + entry.name + "/"))
            elif is_picture(entry.name):
                yield inner + entry.name, entry


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
