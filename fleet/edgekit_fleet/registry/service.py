"""The registry as the fleet manager runs it: its routes, its roots of trust, and a fresh timestamp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit_fleet.registry import api
from edgekit_fleet.registry.keys import desired_key_id
from edgekit_fleet.registry.repository import open_repository
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.store.database import Database
from edgekit_fleet.web.bus import Bus

_REFRESH_S = 300.0


@dataclass(frozen=True)
class Trust:
    """The roots of trust that an enrolling device gets.

    Args:
        root: TUF root metadata, JSON text; empty before the first publication.
        desired_keys: Public keys of desired states, hexadecimal, by key id.
    """

    root: str
    desired_keys: dict[str, str]


class RegistryService:
    """Serves the registry in a data folder until it is stopped.

    Args:
        data: The fleet's data folder.
        database: The fleet's database.
        bus: Gets a change for every published bundle.

    Raises:
        ConfigError: A key file is damaged.
        StorageError: The data folder cannot be written.
    """

    def __init__(self, data: Path, database: Database, bus: Bus) -> None:
        self.repository = open_repository(data, database)
        self.repository.blobs.sweep()
        self.repository.watch(
            lambda bundle: bus.publish("bundle", {"model": bundle.model, "version": bundle.version})
        )
        self.routers = (
            api.tuf_router(self.repository),
            api.publishing_router(self.repository),
            api.bundles_router(self.repository),
        )
        self._keeper = Ticker("registry-timestamp", _REFRESH_S, self.repository.refresh)
        self._keeper.start()

    def stop(self) -> None:
        """End the work in the background; safe twice."""
        self._keeper.stop()

    def trust(self) -> Trust:
        """Return the roots of trust for an enrolling device."""
        root, desired = self.repository.metadata("root"), self.repository.online_keys().desired
        return Trust(
            root="" if root is None else root.decode(), desired_keys={desired_key_id(desired): desired}
        )
