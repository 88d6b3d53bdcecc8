"""Where results go: one file for each kind in ``SINKS``.

A sink is a class with an ``Options`` structure (the keys of its ``[[sink]]`` table) and the
constructor ``Class(options, context)``; it satisfies ``edgekit.core.ports.Sink``. A class whose
``leaves_device`` is true sends off the device, through ``context.connect`` or
``context.post``, behind which the gate stands, or what ``context.direct`` permits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekit.base import plugins
from edgekit.core.egress import ENVELOPE
from edgekit.core.ports import Result, Session, Sink, Updates, nothing
from edgekit.pipeline.switch import Switch

if TYPE_CHECKING:
    from edgekit.pipeline.packets import PacketRing
    from edgekit.pipeline.tracking.tables import LineTable, ZoneTable

SINKS: dict[str, str] = {
    "jsonl": "edgekit.pipeline.sinks.jsonl:JsonlSink",
    "video": "edgekit.pipeline.sinks.video:VideoSink",
    "callback": "edgekit.pipeline.sinks.callback:CallbackSink",
    "mqtt": "edgekit.pipeline.sinks.mqtt:MqttSink",
    "sqlite": "edgekit.pipeline.sinks.sqlite:SqliteSink",
    "http": "edgekit.pipeline.sinks.http:HttpSink",
    "clips": "edgekit.pipeline.sinks.clips:ClipsSink",
    "prometheus": "edgekit.pipeline.sinks.prometheus:PrometheusSink",
    "homeassistant": "edgekit.pipeline.sinks.homeassistant:HomeAssistantSink",
    "gpio": "edgekit.pipeline.sinks.gpio:GpioSink",
    "modbus": "edgekit.pipeline.sinks.modbus:ModbusSink",
    "opcua": "edgekit.pipeline.sinks.opcua:OpcUaSink",
}
SINK_ROWS = plugins.Rows(SINKS, plugins.SINKS)


class Channel(Protocol):
    """A way to one broker: ``channel(topic, document)`` sends through the gate, and never waits.

    ``on_kept`` is called once the broker has the message, or it is given up.
    """

    @property
    def is_ready(self) -> bool:
        """Whether the broker is connected."""

    def __call__(
        self,
        topic: str,
        document: Mapping[str, Any],
        *,
        retain: bool = False,
        on_kept: Callable[[], object] = nothing,
    ) -> None:
        """Send what may leave of a document."""

    def raw(self, topic: str, payload: bytes, data_class: str = ENVELOPE, *, retain: bool = False) -> None:
        """Send a payload that is all of one class of data, if that may leave."""

    def settle(self) -> None:
        """Wait a while until the first connect has succeeded or failed."""

    def close(self) -> None:
        """Wait a while for queued messages to leave and end the link, if it is this channel's own."""


class Connect(Protocol):
    """Gives the way to a broker, through the egress gate."""

    def __call__(
        self, url: str, *, ca: Path | None, user: str, password: str, session: Session | None = None
    ) -> Channel:
        """Return the broker's channel; with a ``session`` it has a link of its own, to be closed by its user.

        Raises:
            ConfigError: It is no broker's URL, or a file cannot be read.
        """


class Post(Protocol):
    """Gives the way to a web server, through the egress gate."""

    def __call__(
        self, url: str, queue: Path, *, ca: Path | None, secret: str, token: str
    ) -> Callable[[str, Mapping[str, Any], Mapping[str, Any], Callable[[], object]], object]:
        """Return ``send(id, envelope, document, on_kept)``, which queues on disk and never waits.

        ``queue``: the folder of the queue. ``on_kept`` is called once the document is in it, or given up.

        Raises:
            ConfigError: The URL or the CA cannot be used.
            StorageError: The queue cannot be opened.
        """


class Way(Protocol):
    """Decides for a sink with a protocol of its own what may leave for one destination."""

    def permit(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return what may leave of a document, and enter in the ledger what does and what does not."""

    def close(self) -> None:
        """Keep the last counters; safe to call twice."""


class Direct(Protocol):
    """Gives a sink with a protocol of its own the egress gate."""

    def __call__(self, destination: str, state: Callable[[], dict[str, Any]]) -> Way:
        """Return the gate; ``state()`` returns the sink's counters, for the summary."""


@dataclass(frozen=True)
class SinkContext:
    """What a sink knows about its pipeline, and the ports it may use.

    ``source_fps()`` is the source's rate, 0 where it has none; known once it is open. ``connect``,
    ``post`` and ``direct`` are the only ways off the device; ``callback`` is a function of the embedding
    program.
    ``state``: the folder for what the pipeline keeps over restarts. ``egress``: the classes of ``[privacy]
    egress``. ``switch`` turns the pipeline off and on. ``updates``: of the model, in an agent that keeps it
    up to date. ``packets``: the camera's compressed stream, of which ``packets.keep`` asks for some seconds;
    None where the source has none. ``hides``: something in the pictures is to be hidden. ``is_live()``: the
    source's frames come in their own time. ``zones`` and ``lines``: where the pipeline counts.
    """

    pipeline: str
    folder: Path = Path()
    state: Path = Path()
    egress: tuple[str, ...] = ()
    switch: Switch = field(default_factory=Switch)
    updates: Updates | None = None
    source_fps: Callable[[], float] = float
    connect: Connect | None = None
    post: Post | None = None
    direct: Direct | None = None
    callback: Callable[[Result], object] | None = None
    packets: PacketRing | None = None
    hides: bool = False
    is_live: Callable[[], bool] = bool
    zones: tuple[ZoneTable, ...] = ()
    lines: tuple[LineTable, ...] = ()

    def path(self, name: str) -> Path:
        """Return a path of the configuration, by default relative to the pipeline's file."""
        return self.folder / Path(name).expanduser()


def make_sink(kind: str, options: Any, context: SinkContext) -> Sink:
    """Open the sink of a checked configuration.

    Raises:
        ConfigError: A port that it needs was not handed in.
        StorageError: Its file cannot be written.
    """
    sink: Sink = SINK_ROWS.load(kind)(options, context)
    return sink
