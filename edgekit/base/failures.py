"""An ``EdgekitError`` as data: in ``--json``, from a child process, in an agent's or a fleet's API.

>>> failure_of(errors.BundleError("bad.tar is truncated"))
Failure(code='model.bundle', message='bad.tar is truncated', reasons=(), hint='')
"""

import msgspec

from edgekit.core import errors
from edgekit.core.errors import EdgekitError


class Failure(msgspec.Struct, frozen=True):
    """The parts of an error."""

    code: str
    message: str
    reasons: tuple[str, ...] = ()
    hint: str = ""


def failure_of(error: EdgekitError) -> Failure:
    """Return an error as data; undecodable bytes (of file names) are escaped."""
    reasons = tuple(map(_text, error.reasons))
    return Failure(error.code, _text(error.message), reasons, _text(error.hint))


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def error_of(failure: Failure, otherwise: type[EdgekitError] = EdgekitError) -> EdgekitError:
    """Return the error of a failure: of the class with its code, or ``otherwise`` for an unknown code."""
    classes = (kind for kind in vars(errors).values() if isinstance(kind, type))
    kinds = {kind.code: kind for kind in classes if issubclass(kind, EdgekitError)}
    kind = kinds.get(failure.code, otherwise)
    return kind(failure.message, reasons=failure.reasons, hint=failure.hint)
