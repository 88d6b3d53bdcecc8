"""What others publish on an MQTT topic: pictures, or samples of numbers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from edgekit.base.secrets import read_secret
from edgekit.base.tls import trusting
from edgekit.base.traceparent import trace_id_of
from edgekit.core.addresses import has_login, split_address
from edgekit.core.errors import ConfigError, SourceError, TensorError
from edgekit.core.ports import TRACE_ID, Frame
from edgekit.pipeline.fields import SHOWN_LETTERS, FieldMap, FieldOptions
from edgekit.pipeline.framing import split_fields
from edgekit.pipeline.picture_files import decode_picture
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.samples import Samples
from edgekit.pipeline.sources.timing import Reopener, stamp

logger = logging.getLogger(__name__)
WAITING = 64
"""Messages that may wait for the pipeline; then the oldest is dropped."""
OPEN_S = 5.0


class MqttOptions(FieldOptions, frozen=True, kw_only=True):
    """``[source]`` of an MQTT topic, with the keys of ``FieldOptions`` for payloads of text.

    A model of pictures takes JPEG, PNG ... as payloads; another one numbers: a JSON list, a JSON object by
    name, or a line of text. ``uri``: ``mqtt://host:port`` or ``mqtts://``. ``topic`` may have wildcards.
    ``user`` and ``password_file`` (its first line, or ``env:NAME``). ``ca``: of ``mqtts://``. ``max_mb``: a
    larger message is left out. ``give_up_s``: how long to retry; 0 is forever. ``trace``: speak MQTT 5, and
    have events go on with the trace that a message's user property ``traceparent`` names.
    """

    uri: str
    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=32_000)]
    header: bool = True
    user: str = ""
    password_file: str = ""
    ca: str = ""
    max_mb: Annotated[float, msgspec.Meta(gt=0, le=256)] = 16.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    trace: bool = False

    def problems(self) -> Iterator[str]:
        """Report what cannot be right, without the address."""
        yield from super().problems()
        try:
            parts = split_address(self.uri)
            if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.port == 0:
                yield "uri: want mqtt://host:port or mqtts://host:port, got another address"
            elif has_login(self.uri):
                yield "uri: want the login in user and password_file, got it in the address"
        except ValueError as problem:
            yield f"uri: {problem}"


class MqttSource:
    """Frames of a topic's messages; one that does not fit is a gap, named once and counted."""

    Options = MqttOptions
    is_live = True
    slots = 8
    due_s = None
    """Nothing may be published for days; a connection that dies is noticed by MQTT's own pings."""

    def __init__(self, options: MqttOptions, context: SourceContext) -> None:
        self._options, self._context = options, context
        takes_samples = bool(context.window or context.columns)
        self._samples = Samples(context, "mqtt") if takes_samples else None
        values, takes_text = self._samples.values if self._samples else 0, bool(context.columns)
        self._fields = FieldMap(options, values, takes_text=takes_text)
        self._named = FieldMap(FieldOptions(), values, takes_text=takes_text)
        """For JSON whose values are in order already."""
        self._closing, self._changed = threading.Event(), threading.Condition()
        self._arrived: deque[tuple[dict[str, Any], bytes, tuple[int, int]]] = deque()
        self._ready: deque[tuple[int, Any, tuple[int, int], dict[str, Any]]] = deque()
        self._client: Any = None
        self._lost = ""
        self._is_reading = False
        self._seq = self._rejected = self._dropped = 0
        parts = urlsplit(options.uri)
        self._host, self._port = (
            parts.hostname or "",
            parts.port or (8883 if parts.scheme == "mqtts" else 1883),
        )
        self._name = f"mqtt {options.topic!r}"
        self.reopener = Reopener(self._name, self._connected, options.give_up_s, self._closing)

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the broker."""
        return self.reopener.state()

    def counts(self) -> dict[str, int]:
        """Return the messages that did not fit, and those that came too fast."""
        return {"rejected": self._rejected, "overrun": self._dropped}

    def open(self) -> None:
        """Connect and subscribe."""
        self._client = self.reopener.first()

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        with self._changed:
            self._is_reading = True
        try:
            return self._next()
        finally:
            with self._changed:
                self._is_reading = False
            if self._closing.is_set():
                self._end()

    def _next(self) -> Frame | None:
        while not self._ready and not self._closing.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._arrived or self._lost or self._closing.is_set())
                message = self._arrived.popleft() if self._arrived else None
            if message is not None:
                self._take(*message)
            elif self._lost and not self._closing.is_set():
                self._client.loop_stop()
                if self._samples is not None:
                    self._samples.push([1])
                self._client = self.reopener.again(self._lost, "CONNECTION_FAILED")
        if self._closing.is_set():
            return None
        seq, data, times, meta = self._ready.popleft()
        return Frame(data, seq, *times, dict(meta))

    def _take(self, meta: dict[str, Any], payload: bytes, times: tuple[int, int]) -> None:
        topic = meta["topic"]
        try:
            self._check_size(payload)
            if self._samples is None:
                self._seq += 1
                self._ready.append((self._seq - 1, decode_picture(payload, topic), times, meta))
                return
            entry: Any = self._sample(payload)
        except (TensorError, ValueError) as problem:
            entry = 1
            self._rejected += 1
            if self._rejected == 1:
                text = (*(self._name, topic), problem, payload[:SHOWN_LETTERS])
                logger.warning("%s: a message on %r is left out: %s: %r (later ones are only counted)", *text)
        if self._samples is not None and entry is not None:
            self._ready.extend((seq, data, times, meta) for seq, data in self._samples.push([entry]))

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._options.max_mb * 1e6:
            raise TensorError(f"has {len(payload)} bytes, max_mb is {self._options.max_mb:g}")

    def _sample(self, payload: bytes) -> tuple[Any, ...] | None:
        """Return a message's values; None for a header.

        Raises:
            ValueError: It does not fit.
        """
        text = payload.decode("utf-8", "backslashreplace").strip()
        is_numbered = any(isinstance(column, int) for column in self._options.columns)
        is_in_order = text.startswith("{") or (text.startswith("[") and not is_numbered)
        fields = self._named if is_in_order else self._fields
        row = fields.row(self._parts(text))
        if row is None and fields.problem:
            raise ValueError(fields.problem)
        return None if row is None else row.values

    def _parts(self, text: str) -> Sequence[str]:
        if not text.startswith(("[", "{")):
            return split_fields(text, self._options)
        try:
            document = msgspec.json.decode(text)
        except msgspec.DecodeError as cause:
            raise ValueError(f"is not JSON: {cause}") from cause
        if isinstance(document, Mapping):
            others = tuple(name for name in document if name != self._options.timestamp)
            names = self._options.columns or self._context.columns or others
            if missing := [name for name in names if name not in document]:
                raise ValueError(f"has no {missing[0]!r}")
            document = [document[name] for name in names]
        return ["" if value is None else str(value) for value in document]

    def close(self) -> None:
        """End a wait and the connection; safe to call twice."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
            is_reading = self._is_reading  # the reader may be making another connection, and ends that
        if not is_reading:
            self._end()

    def _end(self) -> None:
        with self._changed:
            client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    # -- the broker, on paho's thread

    def _connected(self) -> Any:
        """Return a client that has subscribed.

        Raises:
            SourceError: The broker does not answer, or refuses.
        """
        client, is_over, refusal = self._new_client(), threading.Event(), list[str]()

        def answered(_client: Any, _data: Any, *more: Any) -> None:
            reasons = more[1] if isinstance(more[1], list) else [more[1]]
            refusal.extend(str(reason) for reason in reasons if reason.is_failure)
            is_over.set()

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                refusal.append(str(reason))
                is_over.set()
            else:
                client.subscribe(self._options.topic, qos=1)

        client.on_connect, client.on_subscribe, self._lost = on_connect, answered, ""
        try:
            client.connect(self._host, self._port, keepalive=15)
        except OSError as cause:
            raise SourceError(f"{self._name}: {cause}", fault="CONNECTION_FAILED") from cause
        client.loop_start()
        if not is_over.wait(OPEN_S) or refusal:
            client.disconnect()
            client.loop_stop()
            text = f"the broker refuses: {refusal[0]}" if refusal else "the broker does not answer"
            raise SourceError(f"{self._name}: {text}", fault="AUTH_FAILED" if refusal else "TIMEOUT")
        client.on_disconnect = self._on_disconnect
        return client

    def _new_client(self) -> Any:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        options, context = self._options, self._context
        protocol = paho.MQTTv5 if options.trace else paho.MQTTv311
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol, reconnect_on_failure=False)
        client.connect_timeout = OPEN_S
        client.on_message = self._on_message
        if options.user:
            secret = read_secret(options.password_file, context.folder, "source 'mqtt': password_file")
            client.username_pw_set(options.user, secret)
        if options.uri.startswith("mqtts"):
            try:
                client.tls_set_context(trusting(context.path(options.ca)) if options.ca else None)
            except OSError as cause:
                raise ConfigError(f"source 'mqtt': ca: {options.ca}: {cause}") from cause
        return client

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        meta = {"topic": message.topic}
        if self._options.trace and (trace_id := _trace_id(message)):
            meta[TRACE_ID] = trace_id
        with self._changed:
            self._arrived.append((meta, message.payload, stamp()))
            if len(self._arrived) > WAITING:
                self._arrived.popleft()
                self._dropped += 1
            self._changed.notify_all()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            self._lost = f"the broker closed the connection: {reason}"
            self._changed.notify_all()


def _trace_id(message: Any) -> str:
    """Return the trace that a message belongs to, if it says so.

    Source: W3C Trace Context: MQTT protocol, version 5: a user property.
    """
    properties = getattr(message.properties, "UserProperty", [])
    return next((trace_id_of(value) for name, value in properties if name == "traceparent"), "")
