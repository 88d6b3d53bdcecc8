"""``edgekit serve``: the process that holds the address, and the hosts of the models."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.agent.access import access_for, settings_of
from edgekit.agent.front import Front
from edgekit.agent.grpc_child import GrpcChild
from edgekit.agent.hosts import Host
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts
from edgekit.base.lock import lock_file
from edgekit.base.notify import Notifier
from edgekit.base.signals import stopped_by_signals
from edgekit.core.errors import UsageError
from edgekit.core.spec import RETRY_S
from edgekit.model.ensemble import served_name
from edgekit.model.exclusions import Exclusions
from edgekit.serve.address import Address, listening
from edgekit.serve.hosting import Start
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access
from edgekit.serve.traffic import traffic_of

logger = logging.getLogger(__name__)
_LOCK_WAIT_S = 2.0
"""For a server that was killed a moment ago."""
_CRASHES = (10, 600.0)
"""The wait doubles at most so often, within so many seconds."""
_TICK_S = 0.5
_STOP_S = 12.0
"""More than a host's grace for requests, and for closing its models."""


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``edgekit serve``.

    Args:
        bundles: Paths of the bundles to serve.
        address: Where to listen.
        token_file: A file with the token that requests must carry.
        threads: CPU threads for each runtime; None: all cores but one.
        grpc_port: Where to answer gRPC too, at the address's host.
        jobs: A folder for requests that are answered later.
        limits: Limits on requests and memory.
        split: How a model's versions share the requests that name none, as ``traffic_of`` reads it.
        shadow: The versions that run in the shadow of others, the same.
        replicas: What each model runs on, all at once, as ``replicas_of`` reads it.
        backoff_s: The wait before a host that ended is started again, from .. to; it doubles.
        retry_s: The wait before a variant that crashed or hung is tried again, from .. to; it doubles.
    """

    bundles: tuple[str, ...]
    address: Address
    token_file: Path | None = None
    threads: int | None = None
    grpc_port: int | None = None
    jobs: Path | None = None
    limits: Limits = field(default_factory=Limits)
    split: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    backoff_s: tuple[float, float] = (0.25, 60.0)
    retry_s: tuple[float, float] = RETRY_S


def serve(
    options: ServeOptions,
    *,
    on_ready: Callable[[list[str], Front], object] = lambda _urls, _front: None,
    reactor: Reactor | None = None,
) -> int:
    """Serve until a signal, or until ``reactor`` is stopped; return the signal's number, or 0.

    Every model is opened before the server listens, so one that cannot run fails the command.

    Raises:
        UsageError: The options contradict each other.
        ModelError, BackendError: A model cannot be served here.
        ConfigError: The token is missing or weak, or the address cannot be used.
        StorageError: Another server has its jobs in the same folder.
    """
    access, models = access_for(options.address, options.token_file), models_of(options.bundles)
    traffic = traffic_of(options.split, options.shadow, models.keys())
    reactor, notifier = reactor or Reactor(), Notifier(os.environ.get("NOTIFY_SOCKET", ""))

    grpc = None if options.grpc_port is None else GrpcChild(reactor, options.address, options.grpc_port)
    is_tls = options.address.certificate is not None
    with (
        contextlib.closing(reactor),
        contextlib.closing(notifier),
        _alone_with(options.jobs),
        listening(options.address) as (found, urls),
    ):

        def begun() -> None:
            front.listen()
            logger.info("serving at %s", ", ".join(urls))
            notifier.tell("READY=1")
            if grpc is not None:
                grpc.start(urls[0])
            on_ready(urls, front)

        sockets = [(bound, is_tls and bound.family != socket.AF_UNIX) for bound in found]
        front = Front(reactor, sockets, is_open=not access.token, traffic=lambda: traffic)
        hosts = _Hosts(options, access, models, front, reactor, begun)
        with stopped_by_signals(reactor.stop) as signals, contextlib.closing(front):
            hosts.begin()
            reactor.run()
            front.stop()
            if grpc is not None:
                grpc.stop()
            hosts.stop()
            while not hosts.have_ended:
                reactor.turn()
    for host in hosts.all:
        if host.error is not None and not hosts.were_ready:
            raise host.error
    return signals[0] if signals else 0


@contextlib.contextmanager
def _alone_with(jobs: Path | None) -> Iterator[None]:
    """Hold a folder of jobs: of two servers both would run what is in it.

    Raises:
        StorageError: Another one holds it, or it cannot be written.
    """
    if jobs is None:
        yield
        return
    problem = f"--jobs {jobs}: another server keeps its jobs there"
    descriptor = lock_file(jobs / ".lock", _LOCK_WAIT_S, problem)
    try:
        yield
    finally:
        os.close(descriptor)


class _Hosts:
    """The models' processes; ``on_ready`` is called once every model is open."""

    def __init__(
        self,
        options: ServeOptions,
        access: Access,
        models: dict[tuple[str, str], str],
        front: Front,
        reactor: Reactor,
        on_ready: Callable[[], object],
    ) -> None:
        self.were_ready = False
        self._front, self._reactor, self._on_ready = front, reactor, on_ready
        start = Start(
            settings=settings_of(access, options.limits, options.address, reactor.now_s(), jobs=options.jobs),
            path="",
            exclusions={},
            should_load=True,
            threads=options.threads,
            log_level=logging.getLogger().level,
            needs_all=True,
        )
        replicas = replicas_of(options.replicas, {name for name, _ in models})
        self.all = [
            Host(
                name,
                version,
                msgspec.structs.replace(start, path=path, replicas=replicas.get(name, ())),
                reactor,
                Restarts(*_CRASHES, *options.backoff_s),
                Exclusions(options.retry_s),
                front.call,
                front.refuse,
                self._changed,
            )
            for (name, version), path in models.items()
        ]

    def begin(self) -> None:
        """Start the processes, which open their models in turn."""
        for host in self.all:
            host.begin()
        self._front.peers = self.all
        self._reactor.every(_TICK_S, self._check)
        self._changed()

    def stop(self) -> None:
        """Ask them to end after the requests that run."""
        for host in self.all:
            host.stop()
        self._reactor.after(_STOP_S, self._kill)

    @property
    def have_ended(self) -> bool:
        """Whether none runs any more."""
        return all(host.has_ended for host in self.all)

    def _changed(self) -> None:
        """Say what has changed; at the start, have the next one open its model."""
        self._front.changed()
        if self.were_ready:
            return
        following = next((host for host in self.all if not host.has_opened), None)
        if following is None:
            self.were_ready = True
            self._on_ready()
        elif following.error is not None:
            self._reactor.stop()
        elif not following.is_begun:
            following.open()

    def _check(self) -> None:
        for host in self.all:
            host.check()

    def _kill(self) -> None:
        for host in self.all:
            host.kill("it did not end in time")


def replicas_of(given: Sequence[str], models: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return what each model runs on, all at once; nothing for one that runs on the best.

    >>> replicas_of(["door=cpu,npu"], ["door", "gate"])
    {'door': ('cpu', 'npu')}

    Args:
        given: ``NAME,NAME`` for every model, or ``MODEL=NAME,NAME``.
        models: Those that are served.

    Raises:
        UsageError: A model is not served, or is given twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        before, sign, listed = text.rpartition("=")
        names = tuple(name.strip() for name in listed.split(",") if name.strip())
        for model in [before] if sign else sorted(models):
            if model not in models:
                raise UsageError(
                    f"--replicas {text}: {model!r} is not served; {', '.join(sorted(models))} are"
                )
            if found.setdefault(model, names) is not names:
                raise UsageError(f"--replicas: {model!r} has replicas already, and {text} has more")
    return found


def models_of(bundles: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Return the paths of the bundles and ensembles by model and version.

    Raises:
        UsageError: A name and version appear twice.
        BundleError: A bundle is invalid.
    """
    paths: dict[tuple[str, str], str] = {}
    for path in bundles:
        named = served_name(path)
        if paths.setdefault(named, path) is not path:
            raise UsageError(f"{' '.join(named)} is named twice")
    return paths
