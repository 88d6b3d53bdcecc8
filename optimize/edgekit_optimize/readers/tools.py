"""Import the conversion libraries on demand; report their versions, and their errors on one line."""

from __future__ import annotations

import re
from importlib import import_module, metadata
from typing import Any, Final

from edgekit.core.errors import BackendUnavailableError

_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


def library(name: str, extra: str = "tools") -> Any:
    """Import a library that belongs to an extra.

    Raises:
        BackendUnavailableError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError as cause:
        raise BackendUnavailableError(
            f"{name.partition('.')[0]} is not installed", hint=f"pip install 'edgekit-optimize[{extra}]'"
        ) from cause


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of the named distributions, without those that are not installed."""
    installed = {name: _version(name) for name in distributions}
    return {name: version for name, version in installed.items() if version}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def short(cause: BaseException, limit: int = 300) -> str:
    r"""Return an error's text on one line, without a terminal's colours, at most ``limit`` characters.

    >>> short(ValueError("no  such \x1b[96mlayer\x1b[0m"))
    'no such layer'
    """
    text = " ".join(_COLOURS.sub("", str(cause)).split()) or type(cause).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
