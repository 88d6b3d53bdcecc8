"""Commands of the fleet: each is executed once, however often it arrives, and answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from edgekit.base.kept import keep, read_kept
from edgekit.core.errors import EdgekitError, UsageError
from edgekit.core.ports import Clock
from edgekit.core.wire import Command, CommandAnswer
from edgekit.version import __version__

logger = logging.getLogger(__name__)

REMEMBERED = 128
_LOSS = "commands may be executed again"
Action = Callable[[dict[str, object]], str]
"""Executes a command with its arguments; returns the answer's text. Raises EdgekitError to refuse."""


class CommandDesk:
    """Executes commands that are new and not expired, and answers every one."""

    def __init__(
        self,
        path: Path,
        actions: Mapping[str, Action],
        answer: Callable[[CommandAnswer], None],
        clock: Clock,
    ) -> None:
        self._path, self._actions, self._answer, self._clock = path, actions, answer, clock
        self._done = dict.fromkeys(read_kept(path, list[str], [], _LOSS))

    def take(self, command: Command) -> None:
        """Execute a command unless it is expired or was executed before; answer in any case."""
        if command.id in self._done:
            self._reply(command, is_ok=True, message="done before")
            return
        if self._clock.unix_ms() > command.expires_unix_ms:
            self._reply(command, is_ok=False, message="expired before it arrived")
            return
        action = self._actions.get(command.kind)
        if action is None:
            text = f"edgekit {__version__} has no command {command.kind!r}: update the agent"
            self._reply(command, is_ok=False, message=text)
            return
        # stored first, so that a command that kills this process is not repeated after each restart
        self._remember(command.id)
        try:
            message = action(command.args)
        except EdgekitError as error:
            self._reply(command, is_ok=False, message=error.message)
            return
        logger.info("executed command %s", command.kind, extra={"id": command.id})
        self._reply(command, is_ok=True, message=message)

    def _reply(self, command: Command, *, is_ok: bool, message: str) -> None:
        self._answer(
            CommandAnswer(
                mono_ns=self._clock.monotonic_ns(),
                unix_ms=self._clock.unix_ms(),
                id=command.id,
                ok=is_ok,
                message=message[:1000],
            )
        )

    def _remember(self, command: str) -> None:
        self._done[command] = None
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
        keep(self._path, list(self._done), _LOSS)


def text_argument(args: Mapping[str, object], name: str) -> str:
    """Return a command's text argument; empty if it is not given.

    Raises:
        UsageError: It is not text.
    """
    value = args.get(name, "")
    if not isinstance(value, str):
        raise UsageError(f"argument {name!r}: want text, got {value!r}")
    return value
