"""Runs the updater and enrolment as short-lived child processes, for the supervisor."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from edgekit.base.child import Child, ChildFault
from edgekit.base.install_hint import require_modules
from edgekit.core.errors import LinkError
from edgekit.core.wire import EnrollRequest
from edgekit.update.contract import EnrollOrder, Enrolment, UpdaterProgress, UpdaterRequest, UpdaterResult

_GRACE_S = 30.0
R = TypeVar("R", UpdaterResult, Enrolment, EnrollRequest)


def run_updater(
    request: UpdaterRequest, on_progress: Callable[[UpdaterProgress], None] | None = None
) -> UpdaterResult:
    """Run one job in a child process of low priority and return its result (call it on a thread).

    ``on_progress`` is called on the caller's thread; its exceptions end the child and propagate.

    Raises:
        EdgekitError: What the child raised, of the same class.
        LinkError: The child took over ``request.timeout_s``, or ended without a result.
        ConfigError: The libraries that verify updates are not installed.
    """
    require_libraries("an update")
    return _run("job", request, UpdaterResult, request.timeout_s + _GRACE_S, on_progress)


def run_enroll(order: EnrollOrder, timeout_s: float = 60.0) -> Enrolment:
    """Enrol this device in a child process; its identity is stored below ``state_dir``.

    Repeating it with the same token and an existing key returns the same identity.

    Raises:
        EdgekitError: As ``identity.enroll`` raises.
        ConfigError: The libraries that enrolment needs are not installed.
    """
    require_libraries("enrolment")
    return _run("enroll", order, Enrolment, timeout_s, None)


def run_request(order: EnrollOrder, timeout_s: float = 60.0) -> EnrollRequest:
    """Return this device's enrolment request, to be carried to the fleet; made in a child process.

    Raises:
        EdgekitError: As ``identity.enrolment_request`` raises.
        ConfigError: The libraries that enrolment needs are not installed.
    """
    require_libraries("enrolment")
    return _run("request", order, EnrollRequest, timeout_s, None)


def require_libraries(purpose: str) -> None:
    """Raise unless the libraries that verify updates are installed.

    Raises:
        ConfigError: One is missing; the hint installs it.
    """
    require_modules(purpose, "update", ("cryptography", "tuf"))


def _run(
    what: str,
    request: UpdaterRequest | EnrollOrder,
    kind: type[R],
    timeout_s: float,
    on_progress: Callable[[UpdaterProgress], None] | None,
) -> R:
    def progress(data: msgspec.Raw) -> None:
        if on_progress is not None:
            on_progress(msgspec.json.decode(data, type=UpdaterProgress))

    try:
        with Child("edgekit.update.updater", [what]) as child:
            return child.ask(request, kind, timeout_s, progress)
    except ChildFault as fault:
        raise LinkError(f"the updater {fault}", hint="see its log above") from fault
