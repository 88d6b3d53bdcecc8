"""A sink's own link: says whether the pipeline is there, hears commands, keeps states on the broker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.core.egress import ENVELOPE
from edgekit.core.errors import UsageError
from edgekit.core.ports import Session, nothing
from edgekit.pipeline.sinks import Channel

logger = logging.getLogger(__name__)

ONLINE, OFFLINE = b"online", b"offline"
MAX_COMMAND_BYTES = 256


class Remote:
    """States are retained, sent when they change, and sent again after each connect.

    Below ``base`` the topic ``available`` has ``online`` or ``offline``; the broker itself says ``offline``
    when the link breaks, as it does by ``kill -9``.

    Args:
        base: The topic above all others.
        commands: What to do with the text that arrives on a topic, by topic; an error's text is logged.
        refresh: Sends all states; called after each connect, on the link's thread, with the link there.
    """

    def __init__(
        self, base: str, commands: Mapping[str, Callable[[str], object]], refresh: Callable[[], object]
    ) -> None:
        self.available = f"{base}/available"
        self._commands, self._refresh = commands, refresh
        self._lock = threading.RLock()
        self._last: dict[str, object] = {}
        self._channel: Channel | None = None

    def open(self, connect: Callable[[Session], Channel]) -> None:
        """Open the link; ``connect`` is given what it does."""
        session = Session(
            will=(self.available, OFFLINE),
            topics=tuple(self._commands),
            on_ready=self.renew,
            on_message=self._on_message,
        )
        with self._lock:
            self._channel = connect(session)

    def send(self, topic: str, document: Mapping[str, Any], on_kept: Callable[[], object] = nothing) -> None:
        """Send a document once; ``on_kept`` as for ``Channel``."""
        if self._channel is not None:
            self._channel(topic, document, on_kept=on_kept)

    def raw(self, topic: str, payload: bytes, data_class: str) -> None:
        """Send bytes of one class of data once, if the broker is there."""
        with self._lock:
            if self._channel is not None and self._channel.is_ready:
                self._channel.raw(topic, payload, data_class)

    def keep(self, topic: str, state: Mapping[str, Any] | bytes, data_class: str = ENVELOPE) -> None:
        """Send a state, if it is not what was sent last; bytes are all of ``data_class``."""
        with self._lock:
            if self._channel is None or not self._channel.is_ready or self._last.get(topic) == state:
                return
            self._last[topic] = state
            if isinstance(state, bytes):
                self._channel.raw(topic, state, data_class, retain=True)
            else:
                self._channel(topic, state, retain=True)

    def renew(self) -> None:
        """Send every state again."""
        with self._lock:
            self._last.clear()
            self.keep(self.available, ONLINE)
            self._refresh()

    def _on_message(self, topic: str, payload: bytes) -> None:
        act = self._commands.get(topic)
        if act is None:
            return
        text = payload[:MAX_COMMAND_BYTES].decode(errors="replace").strip()
        try:
            act(text)
        except (ValueError, UsageError) as cause:
            logger.warning("a command on %s is ignored: %s", topic, cause)

    def close(self) -> None:
        """Say ``offline`` and end the link; safe to call twice.

        A run that is over before the link is there waits a while for it, and for its states.
        """
        if self._channel is not None:
            self._channel.settle()
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None and channel.is_ready:
                channel.raw(self.available, OFFLINE, retain=True)
        if channel is not None:
            channel.close()
