"""What clients may set while a server runs: the level of its log, and which requests are traced.

Source: Triton's protocol/extension_logging.md and extension_trace.md. No file can be named over the network:
everything goes to the process's log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgekit.serve.errors import HttpError

logger = logging.getLogger(__name__)
_LEVELS = (
    ("log_info", logging.INFO),
    ("log_warnings", logging.WARNING),
    ("log_errors", logging.ERROR),
)
_OFF, _TIMESTAMPS = "OFF", "TIMESTAMPS"
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"trace_level": [_OFF], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0"}
)


def log_settings() -> dict[str, Any]:
    """Return the process's log settings."""
    level = logging.getLogger().level
    names = {name: level <= number for name, number in _LEVELS}
    return {"log_file": "", **names, "log_verbose_level": int(level < logging.INFO), "log_format": "default"}


def set_log(given: Mapping[str, Any]) -> None:
    """Change the process's log level. A level includes the more severe ones.

    Raises:
        HttpError: 400: a setting is unknown, or cannot be.
    """
    unknown = sorted(given.keys() - log_settings().keys())
    if unknown or given.get("log_file") or given.get("log_format", "default") != "default":
        raise HttpError(400, f"log settings: {unknown or 'log_file and log_format'} cannot be set")
    wanted = {**log_settings(), **given}
    switches = [wanted[name] for name, _ in _LEVELS]
    verbose = wanted["log_verbose_level"]
    if any(not isinstance(each, bool) for each in switches) or not isinstance(verbose, int):
        raise HttpError(400, "log settings: want true or false, and a whole number for log_verbose_level")
    if switches != sorted(switches):
        raise HttpError(400, "log settings: log_info includes log_warnings, which includes log_errors")
    levels = [number for (_, number), is_on in zip(_LEVELS, switches, strict=True) if is_on]
    logging.getLogger().setLevel(logging.DEBUG if verbose else min(levels, default=logging.CRITICAL))


class Traces:
    """Which requests are traced: every ``rate``-th, until ``count`` were; per model where that was set."""

    def __init__(self) -> None:
        self._settings: dict[str, dict[str, Any]] = {"": dict(_DEFAULTS)}
        self._seen: dict[str, int] = {}

    def document(self, model: str = "") -> dict[str, Any]:
        """Return the settings of a model, which are everyone's until it has its own."""
        return {**self._settings.get(model, self._settings[""]), "trace_file": "", "trace_mode": "triton"}

    def set(self, given: Mapping[str, Any], model: str = "") -> None:
        """Change settings; null gives one its default again, an empty object a model everyone's.

        Raises:
            HttpError: 400: a setting is unknown, or cannot be.
        """
        if model and not given:
            self._settings.pop(model, None)
            return
        known = dict(self._settings.get(model, self._settings[""]))
        for name, value in given.items():
            if name not in known or name == "log_frequency":
                raise HttpError(400, f"trace setting {name[:64]!r} cannot be set")
            known[name] = _DEFAULTS[name] if value is None else _checked(name, value)
        self._settings[model] = known
        logger.setLevel(logging.INFO if self.is_on else logging.NOTSET)  # whatever the log's level is

    @property
    def is_on(self) -> bool:
        """Whether any request may be traced."""
        return any(_TIMESTAMPS in each["trace_level"] for each in self._settings.values())

    def log(self, model: str, facts: Mapping[str, Any]) -> None:
        """Log one request's facts, if it is to be traced."""
        settings = self._settings.get(model, self._settings[""])
        if _TIMESTAMPS not in settings["trace_level"]:
            return
        seen = self._seen[model] = self._seen.get(model, 0) + 1
        left = int(settings["trace_count"])
        if seen % max(1, int(settings["trace_rate"])) or not left:
            return
        if left > 0:
            settings["trace_count"] = str(left - 1)
        logger.info("trace %s", json.dumps({"model": model, **facts}))


def _checked(name: str, value: Any) -> Any:
    if name == "trace_level":
        levels = [value] if isinstance(value, str) else value
        if not isinstance(levels, list) or not levels or any(e not in (_OFF, _TIMESTAMPS) for e in levels):
            raise HttpError(400, f"trace_level: want {_OFF} or {_TIMESTAMPS}")
        return levels
    text = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not str(text).removeprefix("-").isdecimal() or len(str(text)) > 9:
        raise HttpError(400, f"{name}: want a whole number")
    return str(int(str(text)))
