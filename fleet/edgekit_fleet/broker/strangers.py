"""Devices that knock with a certificate of this fleet, and that its database does not know."""

from __future__ import annotations

MAX_STRANGERS = 1000


class Strangers:
    """Devices that were refused, the last 1000, by id.

    They were revoked, or enrolled after a backup that was restored since. They knock every few minutes, so it
    is enough to remember them in memory.
    """

    def __init__(self) -> None:
        self._heard_ms: dict[str, int] = {}

    def note(self, device: str, now_ms: int) -> None:
        """Remember that a device was refused."""
        self._heard_ms.pop(device, None)
        self._heard_ms[device] = now_ms
        if len(self._heard_ms) > MAX_STRANGERS:
            del self._heard_ms[next(iter(self._heard_ms))]

    def since(self, at_ms: int) -> dict[str, int]:
        """Return the devices refused since a time, and when each was last, in Unix milliseconds."""
        return {device: heard for device, heard in list(self._heard_ms.items()) if heard >= at_ms}
