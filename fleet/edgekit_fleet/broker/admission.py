"""Answers the embedded broker's question, who may connect, on a thread and an event loop of its own.

The broker waits a few seconds for each answer and refuses the device without one. So the answer comes
from memory, and waits neither for the disk nor for the messages that are being stored.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from edgekit.core.errors import SignatureError
from edgekit_fleet.broker.callout import SUBJECT, Callout
from edgekit_fleet.broker.nats_thread import NatsAccess, NatsThread

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

logger = logging.getLogger(__name__)


class Admission:
    """Answers authorization requests until it is stopped.

    Args:
        access: How to reach the broker.
        callout: Decides who may connect.
    """

    def __init__(self, access: NatsAccess, callout: Callout) -> None:
        self._callout = callout
        self._thread = NatsThread("admission", access, self._serve)

    def start(self) -> None:
        """Start, and wait until the broker's questions arrive here; raises ``LinkError``."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_running

    def stop(self) -> None:
        """Stop, and wait for the end; safe twice."""
        self._thread.stop()

    async def _serve(self, client: Client) -> None:
        await client.subscribe(SUBJECT, queue="edgekit", cb=self._answer)
        await client.flush()
        self._thread.is_ready()
        await asyncio.Event().wait()  # until cancelled

    async def _answer(self, question: Msg) -> None:
        try:
            answer = self._callout.answer(question.data)
        except SignatureError as cause:
            logger.warning("an authorization request was not the broker's: %s", cause)
            return
        await question.respond(answer)
