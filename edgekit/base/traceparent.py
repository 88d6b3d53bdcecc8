"""W3C Trace Context: the header or property that says which trace a request or message belongs to."""

from __future__ import annotations

import os
import re

_VALID = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def trace_id_of(traceparent: str) -> str:
    """Return the trace id, 32 hexadecimal digits; empty where it is not valid.

    Source: W3C Trace Context, "traceparent Header".

    >>> trace_id_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    '0af7651916cd43dd8448eb211c80319c'
    >>> trace_id_of("00-zz-1-01"), trace_id_of("00-" + "0" * 32 + "-b7ad6b7169203331-01")
    ('', '')
    """
    valid = _VALID.fullmatch(traceparent)
    return valid[1] if valid else ""


def traceparent_of(trace_id: str) -> str:
    """Return the header that goes on with a trace, as a new span of it.

    Source: W3C Trace Context, "traceparent Header"; the flag says that the trace is recorded.

    >>> trace_id_of(traceparent_of("0af7651916cd43dd8448eb211c80319c"))
    '0af7651916cd43dd8448eb211c80319c'
    """
    return f"00-{trace_id}-{os.urandom(8).hex()}-01"
