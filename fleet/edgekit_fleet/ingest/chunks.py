"""Pieces of files over MQTT, for devices that cannot reach the fleet by HTTP."""

from typing import Annotated

import msgspec

from edgekit.core import wire
from edgekit.core.errors import ProtocolError
from edgekit_fleet.registry.blobs import Blobs


class _Wanted(msgspec.Struct):
    sha256: str
    offset: Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
    length: Annotated[int, msgspec.Meta(ge=1)]


class Chunks:
    """Answers ``chunk`` requests.

    A device asks for what it misses and asks again for what does not come; nothing is kept here.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def answer(self, _device: str, request: wire.Request) -> wire.Chunk:
        """Return the piece that a request names: at most 128 KiB, never empty.

        Raises:
            BundleError: The hash is not one.
            ProtocolError: There is no such file, or it ends before the offset.
        """
        try:
            wanted = msgspec.convert(request.args, _Wanted)
        except msgspec.ValidationError as cause:
            raise ProtocolError(f"chunk: {cause}") from cause
        try:
            with self._blobs.path(wanted.sha256).open("rb") as file:
                file.seek(wanted.offset)
                data = file.read(min(wanted.length, wire.CHUNK_BYTES))
        except FileNotFoundError as cause:
            raise ProtocolError(f"chunk: this fleet has no file {wanted.sha256}") from cause
        if not data:
            raise ProtocolError(f"chunk: {wanted.sha256} ends before {wanted.offset}")
        return wire.Chunk(request.id, wanted.offset, data)
