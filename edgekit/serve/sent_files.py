"""Requests that are a file: a picture, a sound or a table in place of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgekit.base.picture_header import check_image
from edgekit.serve.errors import HttpError
from edgekit.serve.ports import Servable

IMAGE, SOUND, TABLE, OTHER = "image", "sound", "table", "other"
_KINDS = MappingProxyType(
    {
        b"image/jpeg": IMAGE,
        b"image/png": IMAGE,
        b"audio/wav": SOUND,
        b"audio/x-wav": SOUND,
        b"audio/vnd.wave": SOUND,
        b"text/csv": TABLE,
    }
)
MOST_BYTES = MappingProxyType({TABLE: 1 << 20})
"""Of kinds whose bound is below that of all requests."""
_WANTED = MappingProxyType(
    {
        IMAGE: "images",
        SOUND: "sound: that needs windows of one channel, at a rate that its bundle says",
        TABLE: "tables: that needs a sensor's windows, or columns",
    }
)


def kind_of(headers: Mapping[bytes, bytes]) -> str:
    """Return what kind of file a request is, ``OTHER`` for one that no model takes; empty for tensors.

    >>> kind_of({b"content-type": b"audio/wav"}), kind_of({b"content-type": b"image/gif"}), kind_of({})
    ('sound', 'other', '')
    """
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_other = content_type.startswith((b"image/", b"audio/"))
    return _KINDS.get(content_type) or (OTHER if is_other else "")


def check_file(model: str, servable: Servable, kind: str, body: bytes, most_pixels: int) -> None:
    """Refuse a file that a model does not take, and a picture that is too large or none.

    Raises:
        HttpError: 415: the model, or no model, takes such files.
        TensorError: It is no picture, or has too many pixels.
    """
    if kind == OTHER:
        raise HttpError(415, "want image/jpeg, image/png, audio/wav, text/csv, or an inference request")
    if not (servable.takes_images if kind == IMAGE else kind in servable.sample_files):
        raise HttpError(415, f"model {model!r} does not take {_WANTED[kind]}")
    if kind == IMAGE:
        check_image(body, most_pixels)
