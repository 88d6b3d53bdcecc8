"""How to install what is missing, as this installation was made: by pip, by uv, or by Debian's packages."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from edgekit.core.errors import ConfigError

# Extras that are Debian packages of their own; the package ``edgekit`` has all others.
_PACKAGES = {"litert": "edgekit-litert", "onnxruntime": "edgekit-onnxruntime", "openvino": "edgekit-openvino"}
_OWN_PREFIX = Path("/opt/edgekit")


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of edgekit-runtime, such as ``litert``."""
    tool = installer(
        Path(sys.prefix),
        Path(sysconfig.get_path("stdlib")),
        is_venv=sys.prefix != sys.base_prefix,
        has_pip=importlib.util.find_spec("pip") is not None,
    )
    if tool == "apt":
        return f"sudo apt install {_PACKAGES.get(extra, 'edgekit')}"
    return f"{tool} install 'edgekit-runtime[{extra}]'"


def installer(prefix: Path, stdlib: Path, *, is_venv: bool, has_pip: bool) -> str:
    """Return what installs packages into an environment: ``pip``, ``uv pip`` or ``apt``.

    Args:
        prefix: The environment.
        stdlib: The folder of its standard library, which holds the mark of PEP 668.
        is_venv: Whether it is a virtual environment.
        has_pip: Whether pip can be imported in it.
    """
    if prefix.is_relative_to(_OWN_PREFIX):
        return "apt"
    if not is_venv and (stdlib / "EXTERNALLY-MANAGED").exists():
        return "apt"
    if has_pip:
        return "pip"
    try:
        made_by_uv = "\nuv = " in "\n" + (prefix / "pyvenv.cfg").read_text("utf-8")
    except OSError:
        made_by_uv = False
    return "uv pip" if made_by_uv else "apt"


def require_modules(purpose: str, extra: str, modules: Iterable[str]) -> None:
    """Refuse to begin what needs libraries that are not installed; nothing is imported.

    Args:
        purpose: What needs them, as the subject of the message.
        extra: The extra that has them.
        modules: Their import names.

    Raises:
        ConfigError: One is missing; the message names it and the hint installs it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{purpose} needs {' and '.join(missing)}, which this installation lacks",
            hint=install_hint(extra),
        )
