"""Binary frames, as a sensor on a serial line sends them."""

import struct

from edgekit.pipeline.framing import HEADER, SYNC, checksum


def encode_frame(number, payload):
    """Return a binary frame.

    >>> encode_frame(1, b"ab").hex(" ")
    'a5 5a 02 00 01 00 61 62 1b 87'
    """
    body = HEADER.pack(len(payload), number & 0xFFFF) + payload
    return SYNC + body + struct.pack("<H", checksum(body))
