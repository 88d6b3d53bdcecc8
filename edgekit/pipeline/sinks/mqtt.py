"""Results or events as JSON messages, to the broker that the sink names.

It hands whole documents to ``SinkContext.connect``, behind which the egress gate stands.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Literal

from edgekit.base.secrets import read_secret
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks import Channel, SinkContext
from edgekit.pipeline.sinks.document import event_documents, result_document
from edgekit.pipeline.sinks.remote import Remote

MAX_TOPIC_BYTES = 65_535
"""Source: MQTT 3.1.1, 1.5.3: a string's length has two bytes."""


class MqttOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a broker.

    ``url``: such as ``mqtt://host:1883``; an agent's own link where it is empty. ``topic``:
    ``{pipeline}`` is replaced. ``what``: one message for each change, or for each frame. ``ca``: the CA
    file of a broker with ``mqtts://``. ``password_file``: its first line is the password; or ``env:NAME``.
    ``control``: ``ON``, ``OFF``, a profile's name and ``auto`` on ``<topic>/set`` switch the pipeline;
    ``<topic>/state`` has which it is, ``<topic>/profile`` the profile and ``<topic>/available`` whether it
    runs, all retained.
    """

    url: str = ""
    topic: str = "edgekit/{pipeline}"
    what: Literal["events", "results"] = "events"
    ca: str = ""
    user: str = ""
    password_file: str = ""
    control: bool = False

    def problems(self) -> Iterator[str]:
        """Report a topic that cannot be published on, and a switch on the agent's own link."""
        if self.control and not self.url:
            yield "control: want it with url, since the agent's own link hears the fleet only"
        if not self.topic or any(character in self.topic for character in "#+\0"):
            yield f"topic: want a topic without '#' and '+', got {self.topic!r}"
        elif len(self.topic.encode()) > MAX_TOPIC_BYTES // 2:  # a pipeline's name may take the other half
            yield f"topic: want at most {MAX_TOPIC_BYTES // 2} bytes, got {len(self.topic.encode())}"


class MqttSink:
    """Publishes what ``[privacy] egress`` names, and nothing else.

    Raises:
        ConfigError: There is no way to a broker, or its address is wrong.
    """

    Options = MqttOptions
    leaves_device = True

    def __init__(self, options: MqttOptions, context: SinkContext) -> None:
        if context.connect is None:
            raise ConfigError("sink 'mqtt': nothing here can reach a broker", hint="run it in an agent")
        self._document = event_documents if options.what == "events" else lambda r: [result_document(r)]
        self._topic = options.topic.replace("{pipeline}", context.pipeline)
        self._switch = context.switch
        self._remote: Remote | None = None
        connect = functools.partial(
            context.connect,
            options.url,
            ca=context.path(options.ca) if options.ca else None,
            user=options.user,
            password=read_secret(options.password_file, context.folder, "sink 'mqtt': password_file"),
        )
        if options.control:
            self._control(connect)
        self._send = self._remote.send if self._remote else connect()

    def _control(self, connect: Callable[..., Channel]) -> None:
        switch = self._switch
        commands = {f"{self._topic}/set": lambda text: switch.command(text, "MQTT")}
        self._remote = Remote(self._topic, commands, self._say_state)
        self._unwatch = switch.watch(self._say_state)
        self._remote.open(lambda session: connect(session=session))

    def _say_state(self) -> None:
        if self._remote is not None:
            self._remote.keep(f"{self._topic}/state", b"ON" if self._switch.is_on else b"OFF")
            if self._switch.profiles:
                self._remote.keep(f"{self._topic}/profile", self._switch.turned.profile.encode())

    def write(self, result: Result) -> None:
        """Hand over the result's document, or one for each event."""
        for document in self._document(result):
            self._send(self._topic, document, on_kept=result.hold())

    def close(self) -> None:
        """End a link of its own; a shared one belongs to whoever handed in the way to it."""
        if self._remote is not None:
            self._unwatch()
            self._remote.close()
