"""edgekit: run compressed models on edge devices, unattended.

>>> import edgekit
>>> model = edgekit.load("person-detect.ekb")  # doctest: +SKIP
>>> model.predict(image)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.model.api import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import ``load`` when it is first asked for: the supervisor must not pay for NumPy."""
    if name == "load":
        from edgekit.model.api import load

        return load
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
