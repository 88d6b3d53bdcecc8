"""Public stand-ins for tests: they pass the same conformance suites as the real things."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.spec import Variant

if TYPE_CHECKING:
    from edgekit.backends.null import NullBackend
    from edgekit.core.spec import AcceleratorKind


def null_variant(variant_id: str = "null", accelerator: AcceleratorKind = "cpu", **options: Any) -> Variant:
    """Return a variant that needs no file and no runtime.

    Args:
        variant_id: Its id.
        accelerator: What it pretends to run on.
        **options: The script: ``inputs``, ``outputs``, ``latency_ms``, ``jitter_ms``, ``seed``,
            ``load_ms``, ``fail_at``, ``lose_at``, ``hang_at``, ``crash_at`` (see ``NullBackend``).
    """
    return Variant(id=variant_id, backend="null", accelerator=accelerator, options=options)


def null_backend(**options: Any) -> NullBackend:
    """Return an open null backend that follows the script in ``options``.

    >>> null_backend(outputs={"y": {"datatype": "FP32", "shape": [1, 2], "value": 0.5}}).run()["y"].tolist()
    [[0.5, 0.5]]

    Raises:
        ConfigError: The script makes no sense, or has an unknown option.
    """
    from edgekit.backends import check_options
    from edgekit.backends.null import NullBackend

    check_options("null", options)
    return NullBackend(Path("/dev/null"), null_variant(), options)
