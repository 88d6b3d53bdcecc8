"""``edgekit serve``: serve models over HTTP, by the Open Inference Protocol."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

from edgekit.agent.serving import ServeOptions, serve
from edgekit.base.command_line import Report
from edgekit.core.errors import UsageError
from edgekit.serve.address import DEFAULT_PORT, address_of
from edgekit.serve.ports import CACHE_S, Limits

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.add_argument(
        "bundle", nargs="+", help="bundle folder, .ekb file, model file, or an ensemble's .toml"
    )
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
    parser.add_argument("--grpc-port", type=int, metavar="P", help="answer gRPC too, at this port")
    parser.add_argument(
        "--jobs", type=Path, metavar="DIR", help="keep requests there that may be answered later"
    )
    _add_cache(parser)
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="M=V:P,V:P",
        help="versions share the requests that name none, in percent",
    )
    parser.add_argument(
        "--shadow", action="append", default=[], metavar="M=V", help="ask this version too, and only compare"
    )
    parser.add_argument(
        "--replicas",
        action="append",
        default=[],
        metavar="[M=]A,B",
        help="run a model on several accelerators, variants or backends at once (edgetpu:0,edgetpu:1,cpu)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads a model (all cores but one)")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=0,
        metavar="N",
        help="memory for a model's answers to equal requests (0)",
    )
    parser.add_argument(
        "--cache-ttl-s", type=float, default=CACHE_S, metavar="S", help="how long one is kept (300)"
    )
    parser.add_argument(
        "--cache-stale-s",
        type=float,
        default=0.0,
        metavar="S",
        help="how much longer one is given while it is made anew (0)",
    )


def run(arguments: argparse.Namespace) -> Report:
    """Serve until a signal."""
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads: want a number from 1, got {arguments.threads}")
    if arguments.cache_mb < 0 or not arguments.cache_ttl_s > 0 or not arguments.cache_stale_s >= 0:
        raise UsageError("want --cache-mb and --cache-stale-s from 0, and --cache-ttl-s above 0")
    urls: list[str] = []
    number = serve(
        ServeOptions(
            bundles=tuple(arguments.bundle),
            address=address_of(
                arguments.host, arguments.port, arguments.uds, arguments.tls_cert, arguments.tls_key
            ),
            token_file=arguments.token_file,
            threads=arguments.threads,
            grpc_port=arguments.grpc_port,
            jobs=arguments.jobs and arguments.jobs.resolve(),
            split=tuple(arguments.split),
            shadow=tuple(arguments.shadow),
            replicas=tuple(arguments.replicas),
            limits=Limits(
                cache_bytes=arguments.cache_mb << 20,
                cache_s=arguments.cache_ttl_s,
                cache_stale_s=arguments.cache_stale_s,
            ),
        ),
        on_ready=lambda bound, _front: urls.extend(bound),
    )
    document: dict[str, Any] = {"served": urls, "signal": signal.Signals(number).name if number else ""}
    return Report(document, "", INTERRUPTED if number == signal.SIGINT else 0)
