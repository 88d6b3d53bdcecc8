"""Where results go: one file each, found by kind in ``SINKS``.

A sink is a class with an ``Options`` structure (the keys of its ``[[sink]]`` table) and the
constructor ``Class(options, context)``; it satisfies ``edgekit.core.ports.Sink``. A class whose
``leaves_device`` is true sends off the device, and only what ``[privacy] egress`` names. An empty
target is a kind that is known and not yet built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.pipeline.check import load_target

if TYPE_CHECKING:
    from edgekit.core.ports import Result, Sink

SINKS: dict[str, str] = {
    "jsonl": "edgekit.pipeline.sinks.jsonl:JsonlSink",
    "video": "edgekit.pipeline.sinks.video:VideoSink",
    "callback": "edgekit.pipeline.sinks.callback:CallbackSink",
    "mqtt": "edgekit.pipeline.sinks.mqtt:MqttSink",
    "sqlite": "",
    "http": "",
    "homeassistant": "",
}


@dataclass(frozen=True)
class SinkContext:
    """What a sink knows of the pipeline it serves, and the ports it may use.

    ``source_fps()`` is the source's rate, 0 where it has none; known once it is open.
    ``connect(url)`` gives a ``publish(topic, payload)`` that queues and never waits for a network;
    ``callback`` is a function of the embedding program.
    """

    pipeline: str
    folder: Path = Path()
    source_fps: Callable[[], float] = float
    egress: frozenset[str] = frozenset()
    connect: Callable[[str], Callable[[str, bytes], object]] | None = None
    callback: Callable[[Result], object] | None = None

    def path(self, name: str) -> Path:
        """Return a path of the configuration; a relative one lies beside the pipeline's file."""
        return self.folder / Path(name).expanduser()


def make_sink(kind: str, options: Any, context: SinkContext) -> Sink:
    """Open the sink of a checked configuration.

    Raises:
        ConfigError: A port that it needs was not handed in.
        StorageError: Its file cannot be written.
    """
    sink: Sink = load_target(SINKS[kind])(options, context)
    return sink
