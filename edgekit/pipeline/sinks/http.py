"""Events or results as CloudEvents 1.0, posted to a URL; what the server did not take waits on disk.

What has a trace carries it on as ``traceparent`` (CloudEvents' extension "Distributed Tracing").
It hands whole documents to ``SinkContext.post``, behind which the egress gate, the queue and the signature
stand.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Literal

from edgekit.base.secrets import read_secret
from edgekit.base.traceparent import traceparent_of
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.picture import thumbnail
from edgekit.pipeline.sinks import SinkContext
from edgekit.pipeline.sinks.document import event_documents, result_document


class HttpOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a webhook.

    ``url``: http or https. ``what``: one request for each change, or for each frame. ``image``: with a small
    picture, where ``[privacy] egress`` names ``pixels``. ``secret_file`` signs each request, ``token_file``
    is a bearer token: a file's first line, or ``env:NAME``. ``ca``: the CA file of a server with its own.
    """

    url: str
    what: Literal["events", "results"] = "events"
    image: bool = False
    ca: str = ""
    secret_file: str = ""
    token_file: str = ""

    def problems(self) -> Iterator[str]:
        """Report an address that is not a web server's."""
        if not self.url.startswith(("http://", "https://")):
            yield "url: want http:// or https://, got another address"


class HttpSink:
    """Posts what ``[privacy] egress`` names, and nothing else.

    Raises:
        ConfigError: There is no way to a server, or its address or a secret cannot be used.
        StorageError: The queue cannot be opened.
    """

    Options = HttpOptions
    leaves_device = True

    def __init__(self, options: HttpOptions, context: SinkContext) -> None:
        if context.post is None:
            raise ConfigError("sink 'http': nothing here can reach a server", hint="run it by edgekit run")
        self._options = options
        self._source = f"/edgekit/{platform.node() or 'device'}/{context.pipeline}"
        self._send = context.post(
            options.url,
            context.state,
            ca=context.path(options.ca) if options.ca else None,
            secret=read_secret(options.secret_file, context.folder, "sink 'http': secret_file"),
            token=read_secret(options.token_file, context.folder, "sink 'http': token_file"),
        )

    def write(self, result: Result) -> None:
        """Queue the result's document, or one for each event."""
        if self._options.what == "results":
            document = result_document(result)
            unkeyed = f"{result.frame.captured_unix_ms}-{result.frame.seq}"
            self._post(result, "result", document.get("key", unkeyed), document)
            return
        for event in event_documents(result):
            # an event that ends has the id of the one that began
            unkeyed = f"{event['id']}-{event['kind']}-{event['seq']}"
            self._post(result, f"event.{event['kind']}", event.get("key", unkeyed), event)

    def _post(self, result: Result, kind: str, message_id: str, document: dict[str, Any]) -> None:
        if self._options.image and (image := thumbnail(result.frame.data)) is not None:
            document["image"] = image
        envelope = {
            "specversion": "1.0",
            "id": message_id,
            "source": self._source,
            "type": f"io.edgekit.{kind}",
            "subject": result.pipeline,
            "time": _rfc3339(result.frame.captured_unix_ms),
            "datacontenttype": "application/json",
        }
        if result.trace_id:
            envelope["traceparent"] = traceparent_of(result.trace_id)
        self._send(message_id, envelope, document, result.hold())

    def close(self) -> None:
        """Do nothing: the queue belongs to whoever handed in the way to it."""


def _rfc3339(unix_ms: int) -> str:
    """Return a time as CloudEvents wants it. Source: CloudEvents 1.0.2, "time", RFC 3339.

    >>> _rfc3339(1764000000123)
    '2025-11-24T16:00:00.123Z'
    """
    moment = datetime.fromtimestamp(unix_ms / 1e3, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
