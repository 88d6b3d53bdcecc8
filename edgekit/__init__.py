"""edgekit: run compressed models on edge devices, unattended.

>>> import edgekit
>>> model = edgekit.load("person-detect.ekb")  # doctest: +SKIP
>>> model.predict(image)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.importer.importing import import_model
    from edgekit.model.api import load

__all__ = ["__version__", "import_model", "load"]


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for: the supervisor must not pay for NumPy."""
    if name == "load":
        from edgekit.model.api import load

        return load
    if name == "import_model":
        from edgekit.importer.importing import import_model

        return import_model
    raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
