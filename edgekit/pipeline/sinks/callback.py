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
        function = _named(options.function) if options.function else context.callback
        if function is None:
            raise ConfigError("sink 'callback': want function = \"module:name\", got nothing")
        self._function = function

    def write(self, result: Result) -> None:
        """Call it; what it raises ends the run, since it is the user's own code."""
        self._function(result)

    def close(self) -> None:
        """Do nothing."""


def _named(target: str) -> Callable[[Result], object]:
    module, _, name = target.partition(":")
    try:
        function: Callable[[Result], object] | None = getattr(
            importlib.import_module(module), name or "-", None
        )
    except ImportError as cause:
        raise ConfigError(f"sink 'callback': {target!r}: {cause}") from cause
    if not callable(function):
        raise ConfigError(f"sink 'callback': want \"module:function\", got {target!r}")
    return function
