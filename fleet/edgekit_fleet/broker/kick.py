"""Close the connections of devices that have lost the right to one, and see that none slips through."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edgekit.core.errors import LinkError

logger = logging.getLogger(__name__)

_REPEAT_S = 30.0


class Kicker:
    """Closes connections of MQTT clients.

    Args:
        disconnect: Closes those of one client, by its id; raises ``LinkError`` if the broker does not answer.
    """

    def __init__(self, disconnect: Callable[[str], object]) -> None:
        self._disconnect = disconnect
        self._barred: dict[str, float] = {}

    def bar(self, client_id: str) -> None:
        """Close a client's connections now; ``again`` repeats it, so that none slips through.

        A client that was admitted a moment before may not be listed yet, and the broker may be restarting.
        """
        self._barred[client_id] = time.monotonic() + _REPEAT_S
        self._close(client_id)

    def again(self, is_welcome: Callable[[str], bool]) -> None:
        """Close the connections of clients barred in the last half minute; call it every few seconds."""
        for client_id, until_s in list(self._barred.items()):
            if is_welcome(client_id) or (self._close(client_id) and time.monotonic() > until_s):
                self._barred.pop(client_id, None)

    def _close(self, client_id: str) -> bool:
        try:
            self._disconnect(client_id)
        except LinkError as cause:
            logger.warning("%s; trying again", cause)
            return False
        return True
