"""Secrets that a configuration names and never holds."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.core.errors import ConfigError

_IN_ENVIRONMENT = "env:"


def read_secret(name: str, folder: Path, key: str) -> str:
    """Return a secret: the first line of a file, or an environment variable that is named ``env:NAME``.

    Args:
        name: The file's path, relative to ``folder``, or ``env:NAME``; empty for no secret.
        folder: Where relative paths start.
        key: The configuration's key, for the message.

    Raises:
        ConfigError: It is not there, or empty; the message never has the secret.
    """
    if not name:
        return ""
    if name.startswith(_IN_ENVIRONMENT):
        value = os.environ.get(name.removeprefix(_IN_ENVIRONMENT), "")
    else:
        try:
            value = (folder / Path(name).expanduser()).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as cause:
            raise ConfigError(f"{key}: {name} cannot be read: {cause}") from cause
    if not value.strip():
        raise ConfigError(f"{key}: {name} is empty", hint="write the secret into it, in one line")
    return value.strip()
