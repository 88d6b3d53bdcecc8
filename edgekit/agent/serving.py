"""Builds and runs a model server: bundles, access rules, and the HTTP application."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.base.notify import Notifier
from edgekit.core.errors import ConfigError, UsageError
from edgekit.model.servable import offer
from edgekit.serve.app import App
from edgekit.serve.models import Entry, Models
from edgekit.serve.ports import Limits
from edgekit.serve.routes import Access
from edgekit.serve.server import Address, run
from edgekit.version import __version__

logger = logging.getLogger(__name__)
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class ServeOptions:
    """Options of ``edgekit serve``.

    Args:
        bundles: Paths of the bundles to serve.
        address: Where to listen.
        token_file: A file with the token that requests must carry.
        threads: CPU threads for each runtime; None: all cores but one.
        limits: Limits on requests and memory.
    """

    bundles: tuple[str, ...]
    address: Address
    token_file: Path | None = None
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)


def serve(options: ServeOptions, *, on_ready: Callable[[list[str]], object] = lambda _: None) -> int:
    """Serve until a signal; return its number.

    Every model is opened before the server listens, so one that cannot run fails the command.

    Raises:
        UsageError: The options contradict each other.
        ModelError, BackendError: A model cannot be served here.
        ConfigError: The token is missing or weak, or the address cannot be used.
    """
    access = access_for(options)
    offers = [offer(path, options.threads) for path in options.bundles]
    entries = [Entry(offered, options.limits) for offered in offers]
    app = App(Models(entries), access, options.limits, __version__)
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET", ""))

    def begun(urls: list[str]) -> None:
        _log(entries, urls)
        notifier.tell("READY=1")
        on_ready(urls)

    try:
        for entry in entries:
            entry.open_first()
        return run(app, options.address, options.limits, on_listening=begun)
    finally:
        notifier.close()
        for entry in entries:
            entry.end()


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


def _log(entries: Sequence[Entry], urls: Sequence[str]) -> None:
    for entry in entries:
        status = entry.status()
        logger.info(
            "%s %s: variant %s, %s on %s",
            entry.offer.name,
            entry.offer.version,
            status["variant"],
            status["backend"],
            status["accelerator"],
        )
    logger.info("serving at %s", ", ".join(urls))
