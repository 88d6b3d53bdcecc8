"""What a model must do to be served, how it is opened, and the bounds of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Prediction, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgekit.base.entry import Counts, Entry, Pace
    from edgekit.base.joint import Joint

T = TypeVar("T")
CACHE_S = 300.0
"""How long an answer is kept, unless the limits say otherwise."""


class Servable(Protocol):
    """One loaded model, used by one thread at a time, not always the same."""

    variant: str
    platform: str
    """The runtime in the protocol's model metadata, such as ``onnxruntime_onnx``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional_inputs: frozenset[str]
    """Inputs that a request may leave out (recurrent state: zeros)."""
    takes_images: bool
    sample_files: frozenset[str]
    """The files that ``predict_samples`` takes: ``sound`` (WAV), ``table`` (CSV), both, or none."""
    labels: tuple[str, ...]
    """The model's classes, in their order; empty if it has none."""
    batch: int
    """How many requests of one row may run at once, by the manifest; 1: none."""
    keeps_state: bool
    """Whether the model has state."""
    states: tuple[tuple[str, str], ...]
    """Its inputs of state, and the outputs that have what the next request is to get."""
    steps: tuple[dict[str, Any], ...]
    """An ensemble's, as Triton's ``ensemble_scheduling`` has them; empty for a model."""

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run on tensors of ``inputs``; arrays by output name, valid until the next call.

        Raises:
            TensorError: A feed does not fit.
            InferenceError: This inference failed.
            AcceleratorLostError: No later one will succeed.
        """

    def predict(self, image: bytes) -> Prediction:
        """Return the prediction for a JPEG or PNG; boxes in pixels of the image.

        Raises:
            TensorError: The bytes are no image, or the model takes none.
            InferenceError, AcceleratorLostError: As for ``infer``.
            ConfigError: Images need a library that is not installed.
        """

    def predict_samples(self, data: bytes, kind: str) -> Sequence[tuple[Mapping[str, float], Prediction]]:
        """Return the predictions for the windows or rows of a file, and where each lies in it.

        ``kind``: one of ``sample_files``. Raises as ``predict`` does.
        """

    def open_together(self) -> Together:
        """Open the model once more, for ``batch`` requests at once; called in a thread of its own.

        Raises:
            EdgekitError: It cannot be opened so.
        """

    def status(self) -> dict[str, Any]:
        """Return the model's part of ``/status``: the variant, what runs it, and why this one."""

    def close(self) -> None:
        """Free the model; safe to call twice."""


class Together(Protocol):
    """A model that is open for several requests at once."""

    def run(self, requests: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[Mapping[str, NDArray[Any]]]:
        """Run on the feeds of each request; their outputs, valid until the next call.

        Raises as ``Servable.infer`` does.
        """

    def close(self) -> None:
        """Free it; safe to call twice."""


class Held(Protocol):
    """A model that stays open: another variant takes over from a lost one, which returns when it can."""

    @property
    def servable(self) -> Servable:
        """What runs now."""

    def fail_over(self, lost: Servable, error: EdgekitError) -> Servable:
        """Close a variant that was lost, and return the one that runs from now on.

        Raises:
            EdgekitError: None can be opened. The lost one is tried again all the same.
        """

    def watch(self, switch: Callable[[Servable], object]) -> None:
        """Have lost variants tried again. ``switch`` is called in another thread with one that works.

        It comes back once what ran before is no longer in use.
        """

    def status(self) -> dict[str, Any]:
        """Return ``excluded``, the lost variants with the reasons, and ``failed_returns``."""

    def close(self) -> None:
        """Free the model; safe to call twice."""


class HeldReplica(Held, Protocol):
    """A model that is open on one accelerator beside others of it; nothing takes over where it is lost."""

    def recheck(self, waiting: int) -> bool:
        """Run a golden sample again if it is time; called on the lane's thread while nothing else runs.

        Args:
            waiting: How many requests wait.

        Returns:
            Whether to call it again at once.

        Raises:
            EdgekitError: The answer was wrong, or there was none.
        """

    def doubt(self) -> None:
        """Have ``recheck`` look soon: an inference failed."""

    def rest(self) -> None:
        """Open nothing any more."""


class ReplicaOffer(Protocol):
    """How one replica of a model is opened."""

    name: str
    """As it was written: what it runs on."""

    @property
    def due_s(self) -> float:
        """The monotonic time from which it may be opened again; 0 for at once."""

    def open(self) -> HeldReplica:
        """Open it; raises ``EdgekitError`` if it cannot be, and then it is due later."""

    def lost(self, reason: str) -> None:
        """Note that what was open hangs, and is given up: it is due after a wait."""

    def forget(self) -> None:
        """Let it be opened at once, whatever was before."""


class Offer(msgspec.Struct, frozen=True, eq=False):
    """A model to serve: its name, and how to open it; ``open`` raises ``EdgekitError`` if it cannot.

    One with ``replicas`` is opened by them, all at once.
    """

    name: str
    version: str
    open: Callable[[], Held]
    replicas: tuple[ReplicaOffer, ...] = ()


class RequestLane(Protocol):
    """Where a model's requests wait: its lane, or what spreads them over those of its replicas.

    As ``edgekit.base.lane.Lane``.
    """

    @property
    def counts(self) -> Counts:
        """What was refused or given up."""

    @property
    def depth(self) -> int:
        """How much waits."""

    @property
    def left(self) -> int:
        """A number that grows whenever work ends, begins or is given up."""

    @property
    def is_busy(self) -> bool:
        """Whether something runs."""

    @property
    def is_stuck(self) -> bool:
        """Whether what runs has been running for too long."""

    def pace(self, kind: str) -> Pace:
        """Return the measured pace of one kind of work."""

    def submit(
        self,
        works: Sequence[Callable[[], Any]],
        *,
        kind: str,
        timeout_s: float = 0.0,
        priority: int = 0,
        rows: int = 1,
        size_bytes: int = 0,
        client: str = "",
        joint: Joint | None = None,
        on_done: Callable[[Entry], object] | None = None,
        age_s: float = 0.0,
        wake: bool = True,
    ) -> Entry:
        """Queue a request, or raise ``BusyError``."""

    def refused_again(self) -> None:
        """Count a request that is refused as the one before it was."""

    def is_quick(self, kind: str) -> bool:
        """Return whether ``run_inline`` runs this kind of work while nothing else runs."""

    def run_inline(self, work: Callable[[], T], kind: str) -> T | None:
        """Run quick work in this thread, or return None."""

    def run_waiting(self, budget_s: float) -> bool:
        """Run requests that wait in this thread; return whether to call it again."""

    def cancel(self, entry: Entry) -> None:
        """Give up an entry."""

    def expire(self, entry: Entry) -> None:
        """Give up an entry whose timeout has passed."""

    def close(self) -> None:
        """End it."""


class Limits(msgspec.Struct, frozen=True):
    """The bounds of a server; it refuses and counts what exceeds them."""

    body_bytes: int = 32 << 20
    """One request. 32 MiB is a batch of six float images of 640 x 640."""
    json_bytes: int = 4 << 20
    """The JSON of one request, parsed on the event loop: 4 MiB take about 30 ms."""
    held_bytes: int = 128 << 20
    """All request bodies in memory together."""
    pixels: int = 40_000_000
    """One image, decoded: 120 MB."""
    waiting: int = 2048
    """Requests that wait for one model, counted in rows; at most half of them are one client's."""
    connections: int = 4096
    """Open connections of one process, less where it may open fewer files. Idle ones make room."""
    body_s: float = 30.0
    """How long a client may take to send one body."""
    stuck_s: float = 30.0
    """An inference that takes longer makes its model not ready, and ends the model's process."""
    quiet_s: float = 2.0
    """A process that has not been heard of for this long gets no connections."""
    silent_s: float = 10.0
    """A process that has not been heard of for this long is killed and restarted."""
    inline_s: float = 0.001
    """A model that typically answers within this runs on the event loop: handing over to a thread costs
    50 to 100 us of CPU, and a longer run would delay every other client."""
    sequences: int = 256
    """The open sequences of a model with state."""
    sequence_idle_s: float = 60.0
    """A sequence without a request for so long is forgotten."""
    cache_bytes: int = 0
    """The kept answers of one model; 0: none is kept."""
    cache_s: float = CACHE_S
    """How long one is kept."""
    cache_stale_s: float = 0.0
    """How much longer it is given, marked as stale, while it is made anew."""
    grace_s: int = 5
    """How long the requests that run may take once the server is to end."""
