"""What installs a missing package into this installation: pip, pipx, uv, apt, or a new container image."""

import sys
from collections.abc import Iterable
from pathlib import Path

from edgekit.core.errors import ConfigError

# Extras with a Debian package of their own; ``edgekit`` has all others.
_PACKAGES = {extra: f"edgekit-{extra}" for extra in ("litert", "onnxruntime", "openvino", "rtsp")}
_IMAGE_MARK = "edgekit-image"
"""A file that our Dockerfiles put into their environment."""
# Tools that keep one program in an environment of its own: the file by which it is known, and the command.
_PROGRAM_TOOLS = {
    "pipx_metadata.json": "pipx inject edgekit-runtime",
    "uv-receipt.toml": "uv tool install edgekit-runtime --with",
}


def install_hint(extra: str) -> str:
    """Return what installs an extra of edgekit-runtime, such as ``litert``."""
    import sysconfig  # these take memory of processes that never give a hint
    from importlib.machinery import PathFinder

    tool = installer(
        Path(sys.prefix),
        Path(sysconfig.get_path("stdlib")),
        is_venv=sys.prefix != sys.base_prefix,
        # By the path alone: setuptools' own finder warns, and changes distutils, when it is asked for pip.
        has_pip=PathFinder.find_spec("pip") is not None,
    )
    if tool == "image":
        return f"build the image with {extra} among the extras that its Dockerfile installs"
    if tool == "apt":
        return f"sudo apt install {_PACKAGES.get(extra, 'edgekit')}"
    return f"{tool} 'edgekit-runtime[{extra}]'"


def installer(prefix: Path, stdlib: Path, *, is_venv: bool, has_pip: bool) -> str:
    """Return the command that installs packages into an environment, or ``apt``, or ``image``.

    ``stdlib`` is the folder of its standard library, which may hold PEP 668's EXTERNALLY-MANAGED.
    """
    if not is_venv and (stdlib / "EXTERNALLY-MANAGED").exists():
        return "apt"
    if (prefix / _IMAGE_MARK).exists():
        return "image"
    for file, command in _PROGRAM_TOOLS.items():
        if (prefix / file).exists():
            return command
    if has_pip:
        return "pip install"
    try:
        made_by_uv = "\nuv = " in "\n" + (prefix / "pyvenv.cfg").read_text("utf-8")
    except OSError:
        made_by_uv = False
    return "uv pip install" if made_by_uv else "apt"  # the Debian package's has no pip


def require_modules(purpose: str, extra: str, modules: Iterable[str]) -> None:
    """Raise unless all libraries (import names) are installed; nothing is imported.

    ``purpose`` is the subject of the message; ``extra`` has the libraries.

    Raises:
        ConfigError: One is missing; the message names it and the hint installs it.
    """
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{purpose} needs {' and '.join(missing)}, which this installation lacks",
            hint=install_hint(extra),
        )
