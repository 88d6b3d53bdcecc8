"""Runs the gateway: ``python -m edgekit.serve.grpc --target URL --address HOST:PORT``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys

from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import EdgekitError
from edgekit.serve.grpc.gateway import Gateway

logger = logging.getLogger(__name__)


def main() -> int:
    """Serve until a signal; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="http://host:port or unix:/path of the server")
    parser.add_argument("--address", required=True, help="host:port")
    parser.add_argument("--dies-with-parent", action="store_true")
    arguments = parser.parse_args()
    if arguments.dies_with_parent:
        die_with_parent()
    log_to_stderr(logging.INFO)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_serve(arguments.target, arguments.address))
    except EdgekitError as error:
        logger.error("%s", error.render())  # noqa: TRY400 - the message says it all
        return error.exit_code
    return 0


async def _serve(target: str, address: str) -> None:
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await Gateway(target).serve(address, lambda port: logger.info("gRPC at port %d", port))


if __name__ == "__main__":
    sys.exit(main())
