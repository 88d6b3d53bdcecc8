"""Renews the certificates of this fleet's servers while they run, and says when each one ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit_fleet.identity.authority import SERVER_DAYS, Authority
from edgekit_fleet.store.devices import Devices

logger = logging.getLogger(__name__)

DAY_MS = 86_400_000
RENEW_BEFORE_MS = SERVER_DAYS * DAY_MS // 3
WARN_BEFORE_MS = 21 * DAY_MS
"""Nothing comes this close to its end unless a renewal has failed for days, so say it."""


_NAMES = {"ca": "the fleet's authority", "http": "the HTTPS server", "broker": "the broker"}


@dataclass(frozen=True)
class _Server:
    name: str
    hosts: Sequence[str]
    reload: Callable[[], None]


class CertificateKeeper:
    """Keeps the CA's certificate and those of the servers valid, and watches those of devices.

    Args:
        authority: Issues them.
        devices: Renew theirs by themselves, a month before the end.
        clock: Gives Unix time in milliseconds.
    """

    def __init__(self, authority: Authority, devices: Devices, clock: Callable[[], int]) -> None:
        self._authority, self._devices, self._clock = authority, devices, clock
        self._servers: list[_Server] = []
        self._ending: dict[str, int] = {}

    def keep(self, name: str, hosts: Sequence[str], reload: Callable[[], None]) -> None:
        """Renew a server's certificate in time; ``reload`` has the server read the new files."""
        self._servers.append(_Server(name, hosts, reload))

    def ends_ms(self) -> dict[str, int]:
        """Return when each certificate ends, by ``ca`` and the names of servers, in Unix milliseconds."""
        ends = {server.name: self._authority.server_expires_ms(server.name) for server in self._servers}
        return {"ca": self._authority.expires_ms, **{name: end for name, end in ends.items() if end}}

    def devices(self) -> dict[str, int]:
        """Return how many devices' certificates are ``ending`` within three weeks, and have ``ended``."""
        return {state: len(names) for state, names in self._by_state().items()}

    def _by_state(self) -> dict[str, list[str]]:
        now_ms, ending = self._clock(), self._ending
        return {
            "ending": [device for device, end_ms in ending.items() if end_ms > now_ms],
            "ended": [device for device, end_ms in ending.items() if end_ms <= now_ms],
        }

    def warnings(self) -> list[str]:
        """Return a sentence for each thing that ends soon, for the first page."""
        now_ms, said = self._clock(), []
        for name, end_ms in self.ends_ms().items():
            if end_ms - now_ms < WARN_BEFORE_MS:
                said.append(f"The certificate of {_NAMES[name]} ends on {_day(end_ms)} and was not renewed.")
        names = self._by_state()
        if ended := names["ended"]:
            said.append(f"{len(ended)} devices cannot connect, their certificates have ended: {_few(ended)}.")
        if ending := names["ending"]:
            said.append(
                f"{len(ending)} devices must renew their certificates within 3 weeks: {_few(ending)}."
            )
        return said

    def check(self) -> list[str]:
        """Renew what is due; return what was renewed. Call it every minute.

        Raises:
            StorageError: The devices cannot be read.
            OSError: A file cannot be written; the old certificates stay.
        """
        self._ending = self._devices.ending(self._clock() + WARN_BEFORE_MS)
        renewed = ["ca"] if self._authority.renew() else []
        for server in self._servers:
            end_ms = self._authority.server_expires_ms(server.name) or 0
            if renewed[:1] == ["ca"] or end_ms - self._clock() < RENEW_BEFORE_MS:
                self._authority.server_files(server.name, server.hosts)
                server.reload()
                renewed.append(server.name)
        if renewed:
            logger.info("certificates renewed: %s", ", ".join(renewed))
        return renewed


def _day(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_ms / 1000))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
