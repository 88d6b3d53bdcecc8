"""``edgekit serve``: the process that holds the address, and the hosts of the models."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit.agent.front import Front
from edgekit.agent.hosts import Host
from edgekit.agent.reactor import Reactor
from edgekit.agent.restarts import Restarts
from edgekit.base.notify import Notifier
from edgekit.base.signals import stopped_by_signals
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import RETRY_S
from edgekit.model.bundle import open_bundle
from edgekit.model.exclusions import Exclusions
from edgekit.serve.address import Address, listening
from edgekit.serve.hosting import Start
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access
from edgekit.version import __version__

logger = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_TOKEN_BYTES = 16
_CRASHES = (10, 600.0)
"""The wait doubles at most so often, within so many seconds."""


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``edgekit serve``.

    Args:
        bundles: Paths of the bundles to serve.
        address: Where to listen.
        token_file: A file with the token that requests must carry.
        threads: CPU threads for each runtime; None: all cores but one.
        limits: Limits on requests and memory.
        backoff_s: The wait before a host that ended is started again, from .. to; it doubles.
        retry_s: The wait before a variant that crashed or hung is tried again, from .. to; it doubles.
    """

    bundles: tuple[str, ...]
    address: Address
    token_file: Path | None = None
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
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
    """
    access, models = access_for(options), models_of(options.bundles)
    reactor, notifier = reactor or Reactor(), Notifier(os.environ.get("NOTIFY_SOCKET", ""))

    def begun() -> None:
        logger.info("serving at %s", ", ".join(urls))
        notifier.tell("READY=1")
        on_ready(urls, front)

    is_tls = options.address.certificate is not None
    with (
        contextlib.closing(reactor),
        contextlib.closing(notifier),
        listening(options.address) as (found, urls),
    ):
        sockets = [(bound, is_tls and bound.family != socket.AF_UNIX) for bound in found]
        front = Front(reactor, sockets, is_open=not access.token, on_ready=begun)
        with stopped_by_signals(reactor.stop) as signals, contextlib.closing(front):
            front.begin(_hosts(options, access, models, front, reactor))
            reactor.run()
            front.stop()
            while not front.has_ended:
                reactor.turn()
    for host in front.hosts:
        if host.error is not None and not front.was_ready:
            raise host.error
    return signals[0] if signals else 0


def _hosts(
    options: ServeOptions, access: Access, models: dict[tuple[str, str], str], front: Front, reactor: Reactor
) -> list[Host]:
    start = Start(
        path="",
        exclusions={},
        should_load=True,
        threads=options.threads,
        access=access,
        limits=options.limits,
        certificate=str(options.address.certificate or ""),
        key=str(options.address.key or ""),
        version=__version__,
        began_s=reactor.now_s(),
        log_level=logging.getLogger().level,
    )
    return [
        Host(
            name,
            version,
            msgspec.structs.replace(start, path=path),
            reactor,
            Restarts(*_CRASHES, *options.backoff_s),
            Exclusions(options.retry_s),
            front.call,
            front.refuse,
            front.changed,
        )
        for (name, version), path in models.items()
    ]


def models_of(bundles: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Return the paths of the bundles by model and version.

    Raises:
        UsageError: A name and version appear twice.
        BundleError: A bundle is invalid.
    """
    paths: dict[tuple[str, str], str] = {}
    for path in bundles:
        manifest = open_bundle(path).manifest
        if paths.setdefault((manifest.model, manifest.version), path) is not path:
            raise UsageError(f"{manifest.model} {manifest.version} is named twice")
    return paths


def access_for(options: ServeOptions) -> Access:
    """Return who may call: anyone on this machine, or whoever has the token.

    Raises:
        UsageError: Other machines can reach the address, and there is no token.
        ConfigError: The token's file cannot be read, or the token is too short.
    """
    host = options.address.host
    if options.token_file is not None:
        token = read_token(options.token_file)
        if host and host not in LOOPBACK and options.address.certificate is None:
            logger.warning("the token and all data cross the network in clear: give --tls-cert, --tls-key")
        return Access(token)
    if host and host not in LOOPBACK:
        raise UsageError(
            f"--host {host} can be reached from other machines, and there is no token",
            hint="give --token-file FILE, or leave --host away to serve this machine only",
        )
    return Access(hosts=_LOOPBACK_HOSTS)


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: It cannot be read, is shorter than 16 characters, or is not printable ASCII.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"--token-file {path}: cannot be read: {cause}") from cause
    if len(token) < _TOKEN_BYTES or not token.isprintable() or " " in token:
        raise ConfigError(
            f"--token-file {path}: want one word of at least {_TOKEN_BYTES} characters",
            hint=f"head -c 32 /dev/urandom | base64 > {path}",
        )
    return token
