"""The process that hosts models and runs pipelines for the supervisor.

It is ``python -m edgekit.agent.worker --channel FD``. All native code runs here. A crash ends only this
process, and the supervisor restarts it. It ends by itself when the supervisor closes the channel.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.agent.ipc import (
    Begin,
    BlockingChannel,
    Drop,
    End,
    Host,
    Keep,
    Kept,
    Offered,
    Run,
    Stop,
    Swap,
    ToWorker,
    Turn,
)
from edgekit.agent.worker.pipeline_run import PipelineRun
from edgekit.agent.worker.shared_model import SharedModel
from edgekit.base.logs import log_to_stderr
from edgekit.base.signals import die_with_parent
from edgekit.core.errors import LinkError, ProtocolError

if TYPE_CHECKING:
    from edgekit.agent.worker.local_api import LocalApi

logger = logging.getLogger(__name__)

STOP_S = 5.0


class Worker:
    """Hosts models and runs pipelines on them, as the supervisor's messages say, and reports progress."""

    def __init__(
        self, send: Callable[[Any], None], progress_s: float = 1.0, api: LocalApi | None = None
    ) -> None:
        self._send, self._progress_s, self._api = send, progress_s, api
        self._models: dict[str, SharedModel] = {}
        self._switching = threading.Lock()
        self._pipelines: dict[str, PipelineRun] = {}
        self._stopping = threading.Event()
        self._alone = threading.Lock()
        self._has_opened = False

    def run(self) -> None:
        """Report each ``progress_s`` seconds until ``Stop``; then end every pipeline and free the models."""
        while not self._stopping.wait(self._progress_s):
            self._report()
        pipelines = list(self._pipelines.values())
        for pipeline in pipelines:  # all at once
            pipeline.stop()
        for pipeline in pipelines:
            pipeline.wait(STOP_S)
        if self._api is not None:
            self._api.stop(STOP_S)
        for model in self._models.values():
            model.close()

    def _report(self) -> None:
        for model in list(self._models.values()):
            model.report()
        for name, pipeline in list(self._pipelines.items()):
            if not pipeline.has_ended:
                pipeline.report()
            elif self._pipelines.get(name) is pipeline:  # not started again
                del self._pipelines[name]

    def stop(self) -> None:
        """End everything; safe from any thread."""
        self._stopping.set()

    # -- the reader's thread

    def take(self, message: Any) -> None:
        """Act on a message of the supervisor; whatever takes time is done in a thread of its own."""
        if isinstance(message, Host):
            model = self._models[message.model] = SharedModel(message, self._send, self._switching)
            self._in_a_thread(f"open-{message.model}", functools.partial(self._open, model))
        elif isinstance(message, Drop):
            model = self._models.pop(message.model)
            self._in_a_thread(f"close-{message.model}", functools.partial(self._close, model))
        elif isinstance(message, Run):
            before = self._pipelines.get(message.pipeline)
            pipeline = PipelineRun(message, self._models, self._send, self._api, before)
            pipeline.start()
            self._pipelines[message.pipeline] = (
                pipeline  # now: a report forgets one whose thread is not alive
            )
        elif isinstance(message, (Begin, End, Kept, Offered, Turn)):
            if (running := self._pipelines.get(message.pipeline)) is not None:
                running.take(message)
        elif isinstance(message, Swap):
            self._models[message.model].swap(message)
        elif isinstance(message, Keep):
            self._models[message.model].keep()
        elif isinstance(message, Stop):
            self.stop()

    def _open(self, model: SharedModel) -> None:
        """Open a model; the first one alone.

        msgspec prepares a type when it is first used, and two threads that do so at once crash the process.
        Whatever the opening of a model needs has been used when one is open.
        """
        with self._alone:
            if is_first := not self._has_opened:
                model.open()
                self._has_opened = model.is_open
        if not is_first:
            model.open()
        if self._api is not None and model.is_open:
            self._api.add(model)

    def _close(self, model: SharedModel) -> None:
        if self._api is not None:
            self._api.remove(model)
        model.close()

    def _in_a_thread(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()


# ---------------------------------------------------------------------------------------------
# The process


def serve(channel: BlockingChannel, progress_s: float, api: socket.socket | None) -> int:
    """Host what the supervisor's messages name until it says stop, or is gone; return the exit code."""
    worker = Worker(channel.send, progress_s, None if api is None else _local_api(api))
    reader = threading.Thread(target=_read, args=(channel, worker), name="reader", daemon=True)
    reader.start()
    with contextlib.suppress(LinkError):  # the supervisor is gone
        worker.run()
    return 0


def _local_api(end: socket.socket) -> LocalApi:
    from edgekit.agent.worker.local_api import LocalApi  # the server's modules take memory

    return LocalApi(end)


def _read(channel: BlockingChannel, worker: Worker) -> None:
    """Pass messages to the worker until the supervisor's end closes; then end this process in any case."""
    try:
        for message in channel:
            worker.take(message)
    except (LinkError, ProtocolError) as error:
        logger.warning("the supervisor's channel failed: %s", error)
    worker.stop()
    time.sleep(STOP_S)
    os._exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Run the process: ``--channel FD [--api FD] [--progress-s SECONDS]``, descriptors of connected sockets.

    ``--api``: serve local programs too. ``--progress-s``: between progress messages, by default 1.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given = dict(zip(words[::2], words[1::2], strict=True))  # argparse would take 0.3 MB of each worker
    log_to_stderr(logging.INFO)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor handles a terminal's Ctrl-C
    threading.excepthook = _end_process
    api = socket.socket(fileno=int(given["--api"])) if "--api" in given else None
    channel = BlockingChannel(socket.socket(fileno=int(given["--channel"])), ToWorker)
    return serve(channel, float(given.get("--progress-s", 1.0)), api)


def _end_process(arguments: Any) -> None:
    """End the process on a bug in any thread, so that the supervisor restarts it."""
    if issubclass(arguments.exc_type, LinkError):
        os._exit(0)
    logger.critical("a thread died", exc_info=arguments.exc_value)
    os._exit(1)
