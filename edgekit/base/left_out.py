"""Keeps modules out of a process's memory that a library imports and edgekit does not need."""

import sys


def import_msgspec() -> None:
    """Import msgspec without ``typing_extensions``, which it prefers to ``typing`` where that is installed.

    It is 1.5 MB with what it imports in turn, and ``typing`` has all that msgspec needs of it for edgekit's
    types, from Python 3.10 on. Whoever else imports it afterwards gets it. Call it before any other import.
    """
    name = "typing_extensions"
    if name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment] # so its import raises ImportError
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[name]
