"""Pieces of files over MQTT, for devices that cannot reach the fleet by HTTP."""

from typing import Annotated

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit_fleet.registry.blobs import Blobs


class _Piece(msgspec.Struct):
    sha256: str
    offset: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
    length: Annotated[int, msgspec.Meta(ge=1)]


class Chunks:
    """Answers ``chunk`` requests.

    A device requests the pieces it lacks, and requests them again until they arrive; no state is kept here.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def answer(self, _device: str, request: wire.Request) -> wire.Chunk:
        """Return the requested piece, 1 byte to 128 KiB.

        Raises:
            BundleError: The hash is malformed.
            ProtocolError: There is no such file, or it ends before the offset.
        """
        try:
            piece = msgspec.convert(request.args, _Piece)
        except msgspec.ValidationError as cause:
            raise ProtocolError(f"chunk: {cause}") from cause
        try:
            with self._blobs.path(piece.sha256).open("rb") as file:
                file.seek(piece.offset)
                data = file.read(min(piece.length, wire.CHUNK_BYTES))
        except FileNotFoundError as cause:
            raise ProtocolError(f"chunk: this fleet has no file {piece.sha256}") from cause
        if not data:
            raise ProtocolError(f"chunk: {piece.sha256} ends before {piece.offset}")
        return wire.Chunk(request.id, piece.offset, data)
