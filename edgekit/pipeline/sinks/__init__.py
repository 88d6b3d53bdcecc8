"""Where results go: one file for each kind in ``SINKS``; an empty target is not yet built.

A sink is a class with an ``Options`` structure (the keys of its ``[[sink]]`` table) and the
constructor ``Class(options, context)``; it satisfies ``edgekit.core.ports.Sink``. A class whose
``leaves_device`` is true sends off the device, through ``context.connect``, behind which the gate stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekit.base import plugins
from edgekit.core.ports import Result, Sink
from edgekit.pipeline.packets import PacketRing

SINKS: dict[str, str] = {
    "jsonl": "edgekit.pipeline.sinks.jsonl:JsonlSink",
    "video": "edgekit.pipeline.sinks.video:VideoSink",
    "callback": "edgekit.pipeline.sinks.callback:CallbackSink",
    "mqtt": "edgekit.pipeline.sinks.mqtt:MqttSink",
    "sqlite": "",
    "http": "",
    "homeassistant": "",
}
SINK_ROWS = plugins.Rows(SINKS, plugins.SINKS)


class Connect(Protocol):
    """Gives the way to a broker: a function that sends a document, through the egress gate."""

    def __call__(
        self, url: str, *, ca: Path | None, user: str, password_file: Path | None
    ) -> Callable[[str, Mapping[str, Any]], object]:
        """Return ``send(topic, document)``, which queues and never waits for a network.

        Raises:
            ConfigError: It is no broker's URL, or a file cannot be read.
        """


@dataclass(frozen=True)
class SinkContext:
    """What a sink knows about its pipeline, and the ports it may use.

    ``source_fps()`` is the source's rate, 0 where it has none; known once it is open.
    ``connect`` is the only way off the device; ``callback`` is a function of the embedding program.
    ``packets``: the camera's compressed stream, of which ``packets.keep`` asks for some seconds; None where
    the source has none.
    """

    pipeline: str
    folder: Path = Path()
    source_fps: Callable[[], float] = float
    connect: Connect | None = None
    callback: Callable[[Result], object] | None = None
    packets: PacketRing | None = None

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
