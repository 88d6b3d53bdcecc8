"""Variables of an OPC UA server, written when they change."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.base.secrets import read_secret
from edgekit.core.errors import ConfigError, LinkError
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.points import Point, PointOptions, PointSink


class OpcUaPoint(Point, frozen=True, kw_only=True):
    """One variable, by its node's id as ``ns=2;s=Door.People``; it gets the type that the server says."""

    node: str


class OpcUaOptions(PointOptions, frozen=True, kw_only=True):
    """``[[sink]]`` of an OPC UA server: ``url`` as ``opc.tcp://host:4840``, and its user if it has any."""

    url: str
    user: str = ""
    password_file: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 4.0
    points: tuple[OpcUaPoint, ...] = ()

    def problems(self) -> Iterator[str]:
        """Report an address that cannot be right, beside what is wrong with the points."""
        if not self.url.startswith("opc.tcp://") or "@" in self.url:
            yield "url: want opc.tcp://host:4840, without a user, got another address"
        yield from super().problems()


class OpcUaSink(PointSink):
    """Writes what the points show; a server that does not answer is tried again."""

    Options = OpcUaOptions
    kind = "opcua"

    def __init__(self, options: OpcUaOptions, context: SinkContext) -> None:
        password = read_secret(options.password_file, context.folder, "sink 'opcua': password_file")
        super().__init__(options, context, OpcUaLink(options, password), urlsplit(options.url).netloc)


class OpcUaLink:
    """A session with one server.

    Raises:
        ConfigError: asyncua is not installed.
    """

    def __init__(self, options: OpcUaOptions, password: str) -> None:
        self._options, self._password = options, password
        self._library = asyncua()
        self._client: Any = None
        self._nodes: list[tuple[Any, Any]] = []
        """Each point's node and the type of its value."""

    def open(self) -> None:
        """Open a session, and ask the type of each variable."""
        options = self._options
        client = self._library.Client(options.url, timeout=options.timeout_s)
        if options.user:
            client.set_user(options.user)
            client.set_password(self._password)
        try:
            client.connect()
            self._client = client
            nodes = [client.get_node(point.node) for point in options.points]
            self._nodes = [(node, node.read_data_type_as_variant_type()) for node in nodes]
        except self._library.errors as cause:
            if self._client is None:
                client.tloop.stop()  # its thread has begun already
            raise LinkError(
                f"opcua {options.url}: {_reason(cause)}",
                hint="does the server run there, has it these nodes, and may this user write them?",
            ) from cause

    def write(self, number: int, value: float) -> None:
        """Write one variable, and wait for the server's answer."""
        node, kind = self._nodes[number]
        try:
            node.write_value(self._library.data_value(value, kind))
        except self._library.errors as cause:
            point = self._options.points[number].node
            raise LinkError(f"opcua {self._options.url}: {point}: {_reason(cause)}") from cause

    def close(self) -> None:
        """End the session."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(*self._library.errors):  # the server is gone already
                client.disconnect()


def _reason(cause: BaseException) -> str:
    return str(cause) or type(cause).__name__


@dataclass(frozen=True)
class _Library:
    """asyncua: its client for threads, what it raises, and how a value is written."""

    Client: Any
    errors: tuple[type[BaseException], ...]
    data_value: Callable[[float, Any], Any]


def asyncua() -> _Library:
    """Return what is used of asyncua.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from asyncua import sync, ua
    except ImportError as cause:
        raise ConfigError(f"sink 'opcua' needs asyncua: {cause}", hint=install_hint("opcua")) from cause

    def data_value(value: float, kind: Any) -> Any:
        """Return a value without a time of its own, which many servers refuse."""
        types = ua.VariantType
        if kind == types.Boolean:
            return ua.DataValue(ua.Variant(bool(value), kind))
        if kind in (types.Float, types.Double):
            return ua.DataValue(ua.Variant(float(value), kind))
        return ua.DataValue(ua.Variant(round(value), kind))

    for name in ("asyncua", "asyncua.sync"):  # it logs each lost connection with a trace
        logging.getLogger(name).setLevel(logging.CRITICAL)
    late = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)  # one class since 3.11
    return _Library(sync.Client, (ua.UaError, OSError, *late), data_value)
