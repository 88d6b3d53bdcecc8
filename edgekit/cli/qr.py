"""A link as a QR code for a terminal. Alone imports segno."""

from __future__ import annotations

import io


def qr_code(text: str) -> str:
    """Return a text as a QR code of half blocks; empty without the library (extra ``view``)."""
    try:
        import segno
    except ImportError:
        return ""
    out = io.StringIO()
    segno.make(text, micro=False, error="l").terminal(out, compact=True)
    return out.getvalue()
