"""``edgekit serve``: serve models over HTTP, by the Open Inference Protocol."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from edgekit.agent.serving import ServeOptions, serve
from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.serve.address import Address

INTERRUPTED = 130
DEFAULT_PORT = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument("bundle", nargs="+", help="bundle folder, .ekb file, or model file")
    parser.add_argument("--host", help="listen on another address than 127.0.0.1; needs --token-file")
    parser.add_argument("--port", type=int, help=f"0: a free one ({DEFAULT_PORT})")
    parser.add_argument(
        "--uds", type=Path, metavar="PATH", help="listen on a UNIX socket (alone, without --host or --port)"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="requests must carry the token in this file"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads a model (all cores but one)")


def run(arguments: argparse.Namespace) -> Report:
    """Serve until a signal."""
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads: want a number from 1, got {arguments.threads}")
    urls: list[str] = []
    number = serve(
        ServeOptions(
            bundles=tuple(arguments.bundle),
            address=address(arguments),
            token_file=arguments.token_file,
            threads=arguments.threads,
        ),
        on_ready=lambda bound, _front: urls.extend(bound),
    )
    document: dict[str, Any] = {"served": urls, "signal": signal.Signals(number).name if number else ""}
    return Report(document, "", INTERRUPTED if number == signal.SIGINT else 0)


def address(arguments: argparse.Namespace) -> Address:
    """Return where to listen.

    Raises:
        UsageError: The port is out of range, or only one of certificate and key is given.
    """
    port = DEFAULT_PORT if arguments.port is None else arguments.port
    if not 0 <= port <= 65535:
        raise UsageError(f"--port: want a number from 0 to 65535, got {port}")
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    is_tcp = arguments.uds is None or arguments.host is not None or arguments.port is not None
    return Address(
        host=(arguments.host or "127.0.0.1") if is_tcp else "",
        port=port,
        uds=arguments.uds,
        certificate=arguments.tls_cert,
        key=arguments.tls_key,
    )
