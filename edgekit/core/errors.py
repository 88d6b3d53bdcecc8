"""Every error a user of edgekit can meet, with its stable code and its exit code.

::

    EdgekitError                     1  edgekit.bug
    ├── UsageError                   2  usage
    ├── ConfigError                  3  config
    │   ├── SourceError              3  config.source
    │   └── StorageError             3  config.storage
    ├── ModelError                   4  model
    │   ├── BundleError              4  model.bundle
    │   ├── TensorError              4  model.tensor
    │   ├── NoVariantError           4  model.no_variant
    │   └── GoldenError              4  model.golden
    ├── BackendError                 5  backend
    │   ├── BackendUnavailableError  5  backend.unavailable
    │   ├── ModelLoadError           5  backend.load
    │   ├── InferenceError           5  backend.inference
    │   ├── AcceleratorLostError     5  backend.accelerator_lost
    │   ├── BusyError                5  backend.busy
    │   └── LateError                5  backend.late
    ├── TrustError                   6  trust
    │   ├── SignatureError           6  trust.signature
    │   ├── HashMismatchError        6  trust.hash
    │   ├── RollbackAttackError      6  trust.rollback
    │   └── ExpiredError             6  trust.expired
    ├── LinkError                    7  link
    │   ├── ProtocolError            7  link.protocol
    │   ├── ServerError              7  link.server
    │   └── EnrollError              7  link.enroll
    └── GateError                    8  gate

The number is the process's exit code; 0 is success, 130 an interruption.
"""

from typing import ClassVar


class EdgekitError(Exception):
    """The base of the tree: an error with a stable code, and a fix where one is known.

    Args:
        message: What is wrong: the thing, what was expected, what it is.
        reasons: One line for each candidate or field that was refused.
        hint: What to do about it.
    """

    code: ClassVar[str] = "edgekit.bug"
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, reasons: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reasons = reasons
        self.hint = hint

    def render(self) -> str:
        """Return the text for a user: message, reasons, fix and code, a line each."""
        lines = [self.message, *(f"  {reason}" for reason in self.reasons)]
        if self.hint:
            lines.append(f"  fix: {self.hint}")
        lines.append(f"  code: {self.code}")
        return "\n".join(lines)

    def one_line(self) -> str:
        """Return message, reasons and fix on one line, for a log, an alert or a status.

        >>> UsageError("no such file", reasons=("a.onnx",), hint="name another").one_line()
        'no such file; a.onnx (fix: name another)'
        """
        text = "; ".join((self.message, *self.reasons))
        return f"{text} (fix: {self.hint})" if self.hint else text


class UsageError(EdgekitError):
    """The command line is wrong."""

    code = "usage"
    exit_code = 2


class ConfigError(EdgekitError):
    """A configuration file, or the machine it describes, is not valid."""

    code = "config"
    exit_code = 3


class SourceError(ConfigError):
    """A camera, file or sensor cannot be opened, or gives no more frames.

    ``fault``: what is wrong with a camera, one of ``FAULTS``; empty where that is not known.
    """

    code = "config.source"
    retryable = True
    FAULTS: ClassVar[tuple[str, ...]] = (
        "AUTH_FAILED",
        "TLS",
        "TIMEOUT",
        "NOT_FOUND",
        "CODEC_UNSUPPORTED",
        "CONNECTION_FAILED",
        "STALLED",
    )

    def __init__(
        self, message: str, *, reasons: tuple[str, ...] = (), hint: str = "", fault: str = ""
    ) -> None:
        super().__init__(message, reasons=reasons, hint=hint)
        self.fault = fault


class StorageError(ConfigError):
    """A disk is full, read-only or broken."""

    code = "config.storage"
    retryable = True


class ModelError(EdgekitError):
    """A model or its bundle is at fault."""

    code = "model"
    exit_code = 4


class BundleError(ModelError):
    """A bundle is truncated, malformed or hostile."""

    code = "model.bundle"


class TensorError(ModelError):
    """An array does not fit the tensor it is meant for."""

    code = "model.tensor"


class NoVariantError(ModelError):
    """No variant of a model runs on this device; ``reasons`` says why, for each."""

    code = "model.no_variant"


class GoldenError(ModelError):
    """A golden sample gave another answer than the recorded one."""

    code = "model.golden"


class BackendError(EdgekitError):
    """A runtime library or an accelerator is at fault."""

    code = "backend"
    exit_code = 5


class BackendUnavailableError(BackendError):
    """The runtime library, or the accelerator it needs, is not on this machine."""

    code = "backend.unavailable"


class ModelLoadError(BackendError):
    """The runtime refuses the model file."""

    code = "backend.load"


class InferenceError(BackendError):
    """One inference failed; the next may succeed."""

    code = "backend.inference"
    retryable = True


class AcceleratorLostError(BackendError):
    """The accelerator, or the process that drives it, is gone."""

    code = "backend.accelerator_lost"
    retryable = True


class BusyError(BackendError):
    """A model has more work than it can do in time; ``wait_s`` is the estimate of when it could begin.

    For ``holds_s`` seconds, while nothing of that work ends or is given up, equal requests may be refused
    unasked: none could end in time, or more than half of what waits would still be there.
    """

    code = "backend.busy"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        reasons: tuple[str, ...] = (),
        hint: str = "",
        wait_s: float = 0.0,
        holds_s: float = 0.0,
    ) -> None:
        super().__init__(message, reasons=reasons, hint=hint)
        self.wait_s, self.holds_s = wait_s, holds_s


class LateError(BackendError):
    """The timeout of a request to a model has passed."""

    code = "backend.late"
    retryable = True


class TrustError(EdgekitError):
    """Something is not signed, or not what was signed."""

    code = "trust"
    exit_code = 6


class SignatureError(TrustError):
    """A signature is missing or does not verify."""

    code = "trust.signature"


class HashMismatchError(TrustError):
    """Bytes differ from the signed hash or length."""

    code = "trust.hash"


class RollbackAttackError(TrustError):
    """Metadata or a desired state is older than what was already accepted."""

    code = "trust.rollback"


class ExpiredError(TrustError):
    """Signed metadata or a certificate is past its expiry."""

    code = "trust.expired"


class LinkError(EdgekitError):
    """The broker or a server cannot be reached."""

    code = "link"
    exit_code = 7
    retryable = True


class ProtocolError(LinkError):
    """A message does not follow the protocol; sending it again changes nothing."""

    code = "link.protocol"
    retryable = False


class ServerError(LinkError):
    """A server answered with an error."""

    code = "link.server"


class EnrollError(LinkError):
    """The fleet refused to enrol this device."""

    code = "link.enroll"
    retryable = False


class GateError(EdgekitError):
    """A gate or budget was not met."""

    code = "gate"
    exit_code = 8
