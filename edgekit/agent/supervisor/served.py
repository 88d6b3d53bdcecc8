"""``[[serve.model]]``: bundles served beside the pipelines' models, and which version gets which request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from edgekit.agent.config import PipelinePlan, ServedModel, managed_models
from edgekit.agent.front import Front
from edgekit.agent.hosts import Host
from edgekit.agent.peer import Peer
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import version_key
from edgekit.model.exclusions import Exclusions
from edgekit.serve.hosting import Row, Settings, Start
from edgekit.serve.traffic import PIPELINES, Traffic, checked, in_effect

_CRASHES = (10, 600.0)
_BACKOFF_S = (0.25, 60.0)
_CHECK_S = 0.5
_STOP_S = 12.0
"""More than a host's grace for requests, and for closing its model."""


class Served:
    """Processes of the bundles in ``[[serve.model]]``, one for each, and how versions share requests.

    Args:
        models: The tables, each of another model.
        plans: The agent's pipelines.

    Raises:
        ConfigError: A table names a model or version that nothing serves, or contradicts itself.
        BundleError: A bundle is not one, or is of another model.
    """

    def __init__(self, models: Sequence[ServedModel], plans: Collection[PipelinePlan]) -> None:
        names = [model.name for model in models]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ConfigError(f"[[serve.model]]: {twice[0]} is named twice")
        self.hosts: list[Host] = []
        self._paths: dict[tuple[str, str], str] = {}
        self._of_pipelines = _of_pipelines(plans) if models else {}
        self._traffic = tuple(found for model in models if (found := self._add(model)) is not None)
        self._names = names
        self._replicas = {model.name: model.replicas for model in models}

    def _add(self, model: ServedModel) -> Traffic | None:
        """Keep a model's bundles; return how its versions share requests, None where the newest has all."""
        of_pipelines = self._of_pipelines.get(model.name)
        known = {PIPELINES, *of_pipelines} if of_pipelines is not None else set[str]()
        for path in model.bundles:
            name, version = _served(path)
            if name != model.name:
                raise ConfigError(f"[[serve.model]] {model.name}: {path} is a bundle of {name!r}")
            if version in known:
                raise ConfigError(f"[[serve.model]] {model.name}: version {version} is there twice: {path}")
            known.add(version)
            self._paths[name, version] = path
        if model.replicas and not model.bundles:
            raise ConfigError(
                f"[[serve.model]] {model.name}: replicas are of bundles, and it names none",
                hint="the version that pipelines run has one lane, on one accelerator",
            )
        if not known:
            raise ConfigError(
                f"[[serve.model]] {model.name}: no pipeline uses this model, and it names no bundles"
            )
        if not model.split and not model.shadow:
            return None
        if of_pipelines is not None and not of_pipelines:  # kept up to date: whichever version may come
            known.update(model.split, [model.shadow])
        others = [version for version in known - {PIPELINES, model.shadow} if version]
        newest = (
            PIPELINES if PIPELINES in known - {model.shadow} else max(others, key=version_key, default="")
        )
        traffic = Traffic(model.name, model.split or {newest: 100}, model.shadow)
        try:
            return checked(traffic, {(model.name, version) for version in known})
        except UsageError as error:
            raise ConfigError(f"[[serve.model]] {error.message}") from error

    def start(self, settings: Settings, reactor: Reactor, front: Front) -> None:
        """Start the processes, whose bundles need not open: the pipelines go on without them."""
        for (name, version), path in self._paths.items():
            start = Start(
                settings=settings,
                path=path,
                exclusions={},
                should_load=True,
                threads=None,
                log_level=logging.getLogger().level,
                replicas=self._replicas.get(name, ()),
            )
            restarts, exclusions = Restarts(*_CRASHES, *_BACKOFF_S), Exclusions()
            host = Host(
                *(name, version, start, reactor, restarts, exclusions),
                front.call,
                front.refuse,
                front.changed,
            )
            self.hosts.append(host)
            host.begin()
            host.open()
        if self.hosts:
            reactor.every(_CHECK_S, self._check)

    def _check(self) -> None:
        for host in self.hosts:
            host.check()

    def stop(self, after: Callable[[float, Callable[[], None]], object]) -> None:
        """Ask the processes to end after the requests that run, and kill them later with ``after``."""
        for host in self.hosts:
            host.stop()
        after(_STOP_S, self._kill)

    def _kill(self) -> None:
        for host in self.hosts:
            host.kill("it did not end in time")

    @property
    def have_ended(self) -> bool:
        """Whether none runs any more."""
        return all(host.has_ended for host in self.hosts)

    def traffic(self, rows: Iterable[Row]) -> tuple[Traffic, ...]:
        """Return how versions share requests now, given the rows of the pipelines' models."""
        running: dict[str, str] = {}
        for row in rows:
            running[row.name] = max(running.get(row.name, row.version), row.version, key=version_key)
        return tuple(in_effect(each, running) for each in self._traffic)

    def status(self, peers: Sequence[Peer], traffic: Iterable[Traffic]) -> list[dict[str, Any]]:
        """Return a row for each model: shares and shadow in effect, its versions with their counters."""
        rows = [row for peer in peers for row in peer.rows]
        answered = {(each.model, each.version): each for peer in peers for each in peer.answered}
        shares = {each.model: each for each in traffic}
        document = []
        for name in self._names:
            versions: list[dict[str, Any]] = []
            for row in rows:
                if row.name == name:
                    counts = answered.get((name, row.version))
                    facts = {
                        key: getattr(row, key) for key in ("version", "state", "reason", "pid", "restarts")
                    }
                    requests, shadow = (counts.requests, counts.shadow) if counts else (0, None)
                    replicas = [msgspec.to_builtins(each) for each in row.replicas]
                    versions.append(facts | {"requests": requests, "shadow": shadow, "replicas": replicas})
            share = shares.get(name, Traffic(name, {}))
            wanted = [*share.shares, *filter(None, [share.shadow])]
            missing = [version for version in wanted if version not in [row["version"] for row in versions]]
            document.append(
                {"model": name, "split": share.shares, "shadow": share.shadow, "missing": missing}
                | {"versions": versions}
            )
        return document


def _served(path: str) -> tuple[str, str]:
    from edgekit.model.ensemble import served_name  # memory that few need

    return served_name(path)


def _of_pipelines(plans: Collection[PipelinePlan]) -> Mapping[str, set[str]]:
    """Return the pinned versions of the pipelines' models; none for one that is kept up to date."""
    found: dict[str, set[str]] = {}
    for plan in plans:
        for use in plan.models:
            if use.pinned is not None:
                name, version = _served(str(use.pinned))
                found.setdefault(name, set()).add(version)
    return {**found, **{name: set() for name in managed_models(plans)}}
