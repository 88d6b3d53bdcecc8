"""Tries one variant, for ``proof``: ``python -m edgekit.model.proof_child``."""

from __future__ import annotations

import sys
from typing import Any

from edgekit.base.child import run_job
from edgekit.model.bundle import open_bundle
from edgekit.model.ready import Choices, open_variant
from edgekit.model.synthetic import run_synthetic

_INFERENCES = 3


def _try(task: dict[str, Any], _progress: object) -> bool:
    bundle = open_bundle(task["bundle"])
    variant = next(v for v in bundle.manifest.variants if v.id == task["variant"])
    ready = open_variant(bundle, variant, task["options"], Choices())
    for seed in range(_INFERENCES):
        run_synthetic(ready, seed)
    ready.close()
    return True


if __name__ == "__main__":
    sys.exit(run_job(_try, dict[str, Any]))
