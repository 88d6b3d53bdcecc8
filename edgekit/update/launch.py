"""Runs the updater and enrolment as short-lived child processes; the supervisor's side, kept small."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.update.contract import (
    EnrollOrder,
    Enrolment,
    UpdaterProgress,
    UpdaterRequest,
    UpdaterResult,
)


def run_updater(
    request: UpdaterRequest, on_progress: Callable[[UpdaterProgress], None] | None = None
) -> UpdaterResult:
    """Run one job in a child process of low priority and wait for it (call it on a thread).

    Args:
        request: The job; its ``timeout_s`` bounds it, after which the child is killed.
        on_progress: Called on the caller's thread for each line of progress.

    Raises:
        EdgekitError: What went wrong in the child, of the class it had there: ``TrustError`` (never
            retried), ``LinkError`` and ``StorageError`` (``retryable``), ``NoVariantError``,
            ``BundleError``.
        LinkError: The child outlived its time, or ended without a result.
    """
    raise NotImplementedError


def run_enroll(order: EnrollOrder, timeout_s: float = 60.0) -> Enrolment:
    """Enrol this device in a child process; identity is stored durably below ``state_dir``.

    Doing it again with the same token and an existing key returns the same identity.

    Raises:
        EnrollError: The fleet refused.
        TrustError: The fleet's CA is not the one that the token pins.
        LinkError: The fleet cannot be reached.
        StorageError: The identity cannot be stored.
    """
    raise NotImplementedError
