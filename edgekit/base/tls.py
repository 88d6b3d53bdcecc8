"""TLS towards the fleet, on machines whose clock may be wrong."""

import ssl
import time
from pathlib import Path

from edgekit.base.clock import FLOOR_UNIX_MS

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name


def trusting(ca: Path | None = None, pem: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts only the CA in a file or a text; the system's where both are None.

    A clock before 2026 is wrong, as without a battery: then no certificate would be valid yet, and the fleet
    could not be asked for the time. So the times in certificates are not checked; keys and names are.

    Raises:
        OSError, ssl.SSLError: It is not a CA certificate.
    """
    context = ssl.create_default_context(cafile=str(ca) if ca else None, cadata=pem)
    if time.time() * 1000 < FLOOR_UNIX_MS:
        context.verify_flags |= _NO_CHECK_TIME
    return context
