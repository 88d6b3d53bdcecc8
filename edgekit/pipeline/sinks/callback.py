"""A Python function that takes each result."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from edgekit.core.errors import ConfigError
from edgekit.core.ports import Result
from edgekit.pipeline.check import Options
from edgekit.pipeline.sinks import SinkContext


class CallbackOptions(Options, frozen=True, kw_only=True):
    """``[[sink]]`` of a function: ``function`` is ``"module:name"``, or empty for one handed in."""

    function: str = ""


class CallbackSink:
    """Calls a function with every result.

    Raises:
        ConfigError: There is no such function.
    """

    Options = CallbackOptions

    def __init__(self, options: CallbackOptions, context: SinkContext) -> None:
        self._function = named(options.function) if options.function else context.callback
        if self._function is None:
            raise ConfigError("sink 'callback': want function = \"module:name\", got nothing")

    def write(self, result: Result) -> None:
        """Call it; what it raises ends the run, since it is the user's own code."""
        assert self._function is not None
        self._function(result)

    def close(self) -> None:
        """Do nothing."""


def named(target: str) -> Callable[[Result], object]:
    """Return the function that ``"module:name"`` names.

    Raises:
        ConfigError: There is no such module or function.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name or "-", None)
    except ImportError as cause:
        raise ConfigError(f"sink 'callback': {target!r}: {cause}") from cause
    if not callable(found):
        raise ConfigError(f"sink 'callback': want \"module:function\", got {target!r}")
    function: Callable[[Result], object] = found
    return function
