"""A connection to the embedded broker by its own protocol, with a thread and an event loop to itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.core.errors import LinkError

if TYPE_CHECKING:
    from nats.aio.client import Client

logger = logging.getLogger(__name__)

START_S = 20.0
PAUSE_S = 0.1
_STOP_S = 10.0


@dataclass(frozen=True)
class NatsAccess:
    """How the fleet manager reaches its broker by NATS."""

    url: str
    user: str
    password: str


class NatsThread:
    """Runs one coroutine beside the rest of the fleet manager, for as long as it is not stopped.

    Args:
        name: Of the thread and, at the broker, of the connection.
        access: How to reach the broker.
        work: The coroutine; it gets the connection, which is re-established whenever it breaks. It calls
            ``is_ready`` once it does its work, and ends when it is cancelled.
        on_reconnected: Called on the event loop after each new connection.
    """

    def __init__(
        self,
        name: str,
        access: NatsAccess,
        work: Callable[[Client], Awaitable[None]],
        on_reconnected: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._access = name, access
        self._work, self._on_reconnected = work, on_reconnected
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start, and wait until the coroutine does its work.

        Raises:
            LinkError: The broker cannot be reached, or refuses what the coroutine asks for.
        """
        self._thread.start()
        if not self._ready.wait(START_S) or self._failure is not None:
            self.stop()
            raise LinkError(f"{self._access.url}: {self._name} did not start: {self._failure or 'no answer'}")

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def is_ready(self) -> None:
        """Note that the work has begun."""
        self._ready.set()

    def stop(self) -> None:
        """Cancel the coroutine and wait for the end; safe twice."""
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        import nats.errors
        import nats.js.errors

        try:
            asyncio.run(self._connected())
        except asyncio.CancelledError:
            pass
        except (OSError, asyncio.TimeoutError, nats.errors.Error, nats.js.errors.Error) as cause:
            self._failure = cause
            logger.exception("%s ended", self._name)
        finally:
            self._ready.set()

    async def _connected(self) -> None:
        import nats

        async def reconnected() -> None:
            self._on_reconnected()

        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        client = await nats.connect(
            self._access.url,
            user=self._access.user,
            password=self._access.password,
            name=f"edgekit-{self._name}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=PAUSE_S,
            error_cb=_log_error,
            reconnected_cb=reconnected,
            pending_size=64 << 20,
        )
        try:
            await self._work(client)
        finally:
            await client.close()


async def _log_error(cause: Exception) -> None:
    logger.info("broker: %s", cause)
