"""Runs the updater and enrolment as short-lived child processes; the supervisor's side, kept small."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

from edgekit.base.install_hint import require_modules
from edgekit.core.errors import LinkError
from edgekit.update.contract import (
    MAX_LINE_BYTES,
    EnrollOrder,
    Enrolment,
    Line,
    UpdaterFailure,
    UpdaterProgress,
    UpdaterRequest,
    UpdaterResult,
    error_of,
)

_GRACE_S = 30.0
R = TypeVar("R", UpdaterResult, Enrolment)


def run_updater(
    request: UpdaterRequest, on_progress: Callable[[UpdaterProgress], None] | None = None
) -> UpdaterResult:
    """Run one job in a child process of low priority and wait for it (call it on a thread).

    Args:
        request: The job; its ``timeout_s`` bounds it, after which the child is killed.
        on_progress: Called on the caller's thread for each line of progress; an exception of its
            own ends the child and comes out here.

    Raises:
        EdgekitError: What went wrong in the child, of the class it had there: ``TrustError`` (never
            retried), ``LinkError`` and ``StorageError`` (``retryable``), ``NoVariantError``,
            ``BundleError``.
        LinkError: The child outlived its time, or ended without a result.
        ConfigError: The libraries that verify updates are not installed.
    """
    require_libraries("an update")
    return _run("job", msgspec.json.encode(request), UpdaterResult, request.timeout_s + _GRACE_S, on_progress)


def run_enroll(order: EnrollOrder, timeout_s: float = 60.0) -> Enrolment:
    """Enrol this device in a child process; identity is stored durably below ``state_dir``.

    Doing it again with the same token and an existing key returns the same identity.

    Raises:
        EnrollError: The fleet refused.
        TrustError: The fleet's CA is not the one that the token pins.
        LinkError: The fleet cannot be reached.
        StorageError: The identity cannot be stored.
        ConfigError: The libraries that enrolment needs are not installed.
    """
    require_libraries("enrolment")
    return _run("enroll", msgspec.json.encode(order), Enrolment, timeout_s, None)


def require_libraries(purpose: str) -> None:
    """Refuse to begin without the libraries that verify what the fleet sends.

    Raises:
        ConfigError: One is missing; the hint installs it.
    """
    require_modules(purpose, "update", ("cryptography", "tuf"))


def _run(
    what: str,
    request: bytes,
    wanted: type[R],
    timeout_s: float,
    on_progress: Callable[[UpdaterProgress], None] | None,
) -> R:
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit.update.updater", what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    timer = threading.Timer(timeout_s, child.kill)
    timer.name = "updater-timeout"
    timer.daemon = True
    timer.start()
    try:
        found = _listen(child, request, wanted, on_progress)
    finally:
        timer.cancel()
        child.kill()  # it has said its last, or nobody listens any more
        code = child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    if found is None:
        raise LinkError(f"the updater ended without a result (exit code {code})", hint="see its log above")
    return found


def _listen(
    child: subprocess.Popen[bytes],
    request: bytes,
    wanted: type[R],
    on_progress: Callable[[UpdaterProgress], None] | None,
) -> R | None:
    if child.stdin is None or child.stdout is None:
        return None
    try:
        child.stdin.write(request + b"\n")
        child.stdin.flush()  # and stays open: the child ends when it closes
    except BrokenPipeError:
        return None
    while line := child.stdout.readline(MAX_LINE_BYTES):
        try:
            message = msgspec.json.decode(line, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise LinkError(f"the updater said something else than its protocol: {cause}") from cause
        if isinstance(message, UpdaterFailure):
            raise error_of(message)
        if isinstance(message, wanted):
            return message
        if isinstance(message, UpdaterProgress) and on_progress is not None:
            on_progress(message)
    return None
