"""Results or events as JSON messages, through a publisher that is handed in.

This file knows no MQTT library: the link's owner gives it a ``publish(topic, payload)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from edgekit.core.errors import ConfigError
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks.document import event_documents, result_document

if TYPE_CHECKING:
    from edgekit.core.ports import Result
    from edgekit.pipeline.sinks import SinkContext


class MqttOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a broker.

    ``url``: such as ``mqtt://host:1883``; an agent's own link where it is empty. ``topic``:
    ``{pipeline}`` is replaced. ``what``: one message for each change, or for each frame.
    """

    url: str = ""
    topic: str = "edgekit/{pipeline}"
    what: Literal["events", "results"] = "events"


class MqttSink:
    """Publishes what ``[privacy] egress`` names, and nothing else.

    Args:
        options: The ``[[sink]]`` table.
        context: Holds what may leave, and the way to a publisher.

    Raises:
        ConfigError: No publisher was handed in.
        LinkError: The broker cannot be reached.
    """

    Options = MqttOptions
    leaves_device = True

    def __init__(self, options: MqttOptions, context: SinkContext) -> None:
        if context.connect is None:
            raise ConfigError("sink 'mqtt': nothing here can reach a broker", hint="run it in an agent")
        self._options = options
        self._topic = options.topic.replace("{pipeline}", context.pipeline)
        self._egress = context.egress
        self._publish = context.connect(options.url)
        self._encode = msgspec.json.Encoder().encode

    def write(self, result: Result) -> None:
        """Hand over the result's message, or one for each event."""
        documents: list[dict[str, Any]]
        if self._options.what == "events":
            documents = event_documents(result, self._egress)
        else:
            documents = [result_document(result, self._egress)]
        for document in documents:
            self._publish(self._topic, self._encode(document))

    def close(self) -> None:
        """Do nothing: the publisher belongs to whoever handed it in."""
