"""Interfaces between edgekit's parts: backend, source, sink, clock.

A new backend, source or sink is one file that satisfies one of these protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgekit.core.spec import Prediction, TensorSpec

ModelData: TypeAlias = "Path | bytes | tuple[bytes, ...]"
"""A model to open: its first file, its bytes, or the bytes of each of its variant's files, in order."""


FrameData: TypeAlias = "NDArray[Any] | Mapping[str, Any] | Sequence[Any]"
"""An image or a sensor window; or a row of a table, by column name or in the columns' order."""


@runtime_checkable
class Backend(Protocol):
    """One model loaded in one runtime library, on one accelerator.

    ``Backend(data, variant, options)`` loads ``ModelData`` at batch size ``options["batch"]``, proves that it
    runs on the variant's accelerator, and raises ``BackendError`` where it does not. Tensors have the
    *file's* names; the caller maps logical names. The spec of a quantised tensor has the file's own scale and
    zero point; a file whose quantisation the backend cannot report is refused.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    accelerator: str
    """What runs the model, as the runtime reports it."""

    def view(self, name: str) -> NDArray[Any]:
        """Return the writable memory of one input, in its shape and dtype.

        Valid until the next ``run``: drop it before (LiteRT refuses to run while it is held).
        """

    def run(self) -> dict[str, NDArray[Any]]:
        """Run on the input views and return arrays by output name, valid until the next ``run``.

        Raises:
            InferenceError: This inference failed.
            AcceleratorLostError: Later ones will fail too.
        """

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copy the feeds into the inputs and ``run``; arrays are valid until the next call.

        Raises:
            TensorError: A feed is missing, unknown, or of another shape or dtype.
        """

    def close(self) -> None:
        """Free everything; safe to call twice."""


class Frame(msgspec.Struct):
    """One timestamped image or sensor window.

    ``data`` is an image (height, width, 3), uint8, BGR (as cameras and OpenCV give it), a sensor window
    (samples, channels), float32, or a row of a table, a dict of column to value. A gap in ``seq`` is a drop.
    ``captured_ns`` is monotonic, ``captured_unix_ms`` wall time.
    """

    data: NDArray[Any]
    seq: int
    captured_ns: int
    captured_unix_ms: int
    meta: dict[str, Any] = {}


TRACE_ID = "trace_id"
"""In a frame's ``meta``: the W3C trace of the message that it came with, which its events go on with."""
IDENTITY = "identity"
"""In a frame's ``meta``, if its source has ``finished``: text that it has again after a restart."""
IS_AGAIN = "is_again"
"""In a frame's ``meta``: it was in work when an earlier run ended, so sinks may have its result."""


@runtime_checkable
class Source(Protocol):
    """Makes frames. ``is_live``: it does not wait for its reader, which gets the latest frame.

    It may also have: ``due_s``, seconds within which a frame is due, None for any time; ``slots``, frames
    that may wait; ``fps``; ``halve(times)``; ``state()`` and ``counts()``, for summary and status;
    ``next_seq``, where frames that it left out at its end count as dropped; ``path``, the file or folder
    that it reads; ``finished(identity)``, called on any thread once the sinks keep the result
    of the frame with that ``IDENTITY``.
    """

    is_live: bool

    def open(self) -> None:
        """Open the device or file.

        Raises:
            SourceError: It does not exist, or gives no frames.
        """

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end.

        Raises:
            SourceError: The source vanished.
        """

    def close(self) -> None:
        """Free the device; safe to call twice, and from another thread while ``read`` waits."""


def nothing() -> None:
    """Do nothing: what is called where nobody waits for the end of something."""


def _hold_nothing() -> Callable[[], object]:
    return nothing


class Result(msgspec.Struct):
    """One processed frame on its way to the sinks; times in milliseconds."""

    pipeline: str
    frame: Frame
    prediction: Prediction
    events: tuple[Any, ...]
    """Changes that the debounce let through; empty for most frames."""
    model: str
    version: str
    variant: str
    stage_ms: dict[str, float]
    versions: dict[str, str] = {}
    """Of each model, where several took part."""
    trace_id: str = ""
    """Of the events, 32 hexadecimal digits as in W3C Trace Context; empty without any."""
    is_again: bool = False
    """An earlier run may have written it: a sink that can look writes only what it lacks."""
    hold: Callable[[], Callable[[], object]] = _hold_nothing
    """For a sink that keeps a result later than ``write``: the source notes the frame as done when the
    function that it returns was called. Until then a killed process takes the frame again."""


@runtime_checkable
class Sink(Protocol):
    """Takes results."""

    def write(self, result: Result) -> None:
        """Take one result; must not wait for a network."""

    def close(self) -> None:
        """Flush and free; safe to call twice."""


class Session(msgspec.Struct, frozen=True):
    """What a sink's own link to a broker does beside publishing.

    ``will``: a topic and the payload that the broker publishes there, retained, when the link breaks.
    ``topics``: what is heard. ``on_ready`` is called after each connect, ``on_message`` with each message's
    topic and payload; both on the link's thread, so they return at once and never raise.
    """

    will: tuple[str, bytes]
    topics: tuple[str, ...]
    on_ready: Callable[[], object]
    on_message: Callable[[str, bytes], object]


class Versions(msgspec.Struct, frozen=True):
    """A model that an agent keeps up to date: the version that runs, and the one that is offered.

    ``latest`` is empty where nothing is offered. ``is_busy``: an update or a rollback is under way.
    """

    model: str
    installed: str
    latest: str = ""
    is_busy: bool = False


class Updates(Protocol):
    """The updates of a pipeline's model, for a sink that shows them; safe from any thread."""

    def versions(self) -> Versions | None:
        """Return what is known; None as long as nothing is."""

    def ask(self, action: Literal["install", "rollback"]) -> None:
        """Ask the agent to install what is offered, or to roll back; it answers by new versions."""

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Call ``watcher`` after each change; return a function that ends this."""


class Clock(Protocol):
    """The time; tests pass their own."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary start; never goes back."""

    def unix_ms(self) -> int:
        """Return milliseconds since 1970."""
