"""Renews the device's certificate: a new key here, a certificate from the fleet, both installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.core.errors import ProtocolError
from edgekit.core.wire import Chunk, Response
from edgekit.update.contract import UpdaterRequest, UpdaterResult

Run = Callable[[UpdaterRequest], UpdaterResult]
Ask = Callable[[dict[str, Any]], Response | Chunk]


def renew_certificate(state: Path, unix_ms: int, run: Run, ask: Ask) -> UpdaterResult:
    """Exchange the certificate. Blocks on two child processes and the fleet, so call it on a thread.

    Raises:
        EdgekitError: A step failed; the old key and certificate are still installed, and a retry is safe.
    """
    signing = run(UpdaterRequest(kind="renew", state_dir=str(state), unix_ms=unix_ms))
    answer = ask({"csr": signing.csr})
    result = answer.result if isinstance(answer, Response) else {}
    certificate, ca = result.get("certificate"), result.get("ca", "")
    if not isinstance(certificate, str) or not isinstance(ca, str):
        raise ProtocolError("the fleet's answer to a renewal has no certificate")
    return run(
        UpdaterRequest(kind="renew", state_dir=str(state), certificate=certificate, ca=ca, unix_ms=unix_ms)
    )
