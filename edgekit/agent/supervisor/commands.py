"""Commands of the fleet: each is done once, however often it is sent, and answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from edgekit.base.files import write_durably
from edgekit.core.errors import EdgekitError, UsageError
from edgekit.core.ports import Clock
from edgekit.core.wire import Command, CommandAnswer

logger = logging.getLogger(__name__)

REMEMBERED = 128
Action = Callable[[dict[str, object]], str]
"""Does a command, given its arguments; returns what the answer says. Raises EdgekitError to refuse."""


class CommandDesk:
    """Takes commands, does those that are new and in time, and answers.

    Args:
        path: Where the ids of commands that were done are kept.
        actions: What each kind of command does.
        answer: Sends an answer.
        clock: Tells what has expired.
    """

    def __init__(
        self,
        path: Path,
        actions: Mapping[str, Action],
        answer: Callable[[CommandAnswer], None],
        clock: Clock,
    ) -> None:
        self._path, self._actions, self._answer, self._clock = path, actions, answer, clock
        self._done = self._load()

    def take(self, command: Command) -> None:
        """Do a command, or not a second time; answer in any case."""
        if command.id in self._done:
            self._reply(command, is_ok=True, message="done before")
            return
        if self._clock.unix_ms() > command.expires_unix_ms:
            self._reply(command, is_ok=False, message="expired before it came")
            return
        # remembered first: a command that ends this process is not to be done again and again
        self._remember(command.id)
        try:
            message = self._actions[command.kind](command.args)
        except EdgekitError as error:
            self._reply(command, is_ok=False, message=error.message)
            return
        logger.info("did command %s", command.kind, extra={"id": command.id})
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

    def _load(self) -> dict[str, None]:
        try:
            return dict.fromkeys(msgspec.json.decode(self._path.read_bytes(), type=list[str]))
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as cause:
            logger.warning("%s cannot be read, commands may be done again: %s", self._path, cause)
            return {}

    def _remember(self, command: str) -> None:
        self._done[command] = None
        while len(self._done) > REMEMBERED:
            del self._done[next(iter(self._done))]
        try:
            write_durably(self._path, msgspec.json.encode(list(self._done)))
        except OSError as cause:
            logger.warning("%s cannot be written: %s", self._path, cause)


def text_argument(args: Mapping[str, object], name: str) -> str:
    """Return a text argument of a command, empty where it is not given.

    Raises:
        UsageError: It is no text.
    """
    value = args.get(name, "")
    if not isinstance(value, str):
        raise UsageError(f"argument {name!r}: want text, got {value!r}")
    return value
