"""Attaches the registry to the fleet manager: its routes, its roots, and a timestamp kept fresh."""

from __future__ import annotations

from edgekit_fleet.registry import api
from edgekit_fleet.registry.keys import desired_key_id
from edgekit_fleet.registry.repository import Repository, open_repository
from edgekit_fleet.registry.ticker import Ticker
from edgekit_fleet.services import Services, Trust

_REFRESH_S = 300.0


def attach(services: Services) -> Repository:
    """Open the registry of a fleet manager and serve it; it ends with the services.

    Raises:
        ConfigError: A key file is not one.
        StorageError: The data folder cannot be written.
    """
    repository = open_repository(services.settings.data, services.database)
    repository.blobs.sweep()
    repository.watch(lambda one: services.bus.publish("bundle", {"model": one.model, "version": one.version}))
    keeper = Ticker("registry-timestamp", _REFRESH_S, repository.refresh)
    services.hooks.trust = lambda: roots_of_trust(repository)
    services.hooks.routers += [
        api.tuf_router(repository),
        api.publishing_router(repository),
        api.bundles_router(repository),
    ]
    services.hooks.on_stop.append(keeper.stop)
    keeper.start()
    return repository


def roots_of_trust(repository: Repository) -> Trust:
    """Return what an enrolling device is given to trust from then on."""
    root, desired = repository.metadata("root"), repository.online_keys().desired
    return Trust(root="" if root is None else root.decode(), desired_keys={desired_key_id(desired): desired})
