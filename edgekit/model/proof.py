"""Proves a variant by real inferences in a child process, where a crash is a reason and not our death.

A model may load and then abort the process on its first inference, or when it is freed; a runtime may hang.
``python -m edgekit.model.proof`` is the child.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.base.child import Child, ChildFault, run_job
from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Variant

if TYPE_CHECKING:
    from edgekit.model.bundle import Bundle

TIMEOUT_S = 120.0
_INFERENCES = 3


def prove(bundle: Bundle, variant: Variant, options: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> str:
    """Open a variant in a child process, run its golden samples and made-up input, and close it.

    Args:
        bundle: Where its files are.
        variant: Which.
        options: The machine's options for its backend.
        timeout_s: How long the child may take; then it is killed, and the variant counts as hanging.

    Returns:
        Why the variant must not be used here; empty where it works.
    """
    source = bundle.source if bundle.is_bare else bundle.root
    task = {"bundle": str(source), "variant": variant.id, "options": dict(options)}
    try:
        with Child("edgekit.model.proof", log=subprocess.DEVNULL) as child:
            return child.ask(task, str, timeout_s)
    except ChildFault as fault:
        return f"was tried in a process of its own, which {fault}"
    except EdgekitError as error:  # the bundle's or the machine's: every variant has it
        return error.message


def _try(task: dict[str, Any], _progress: object) -> str:
    from edgekit.model.bundle import open_bundle
    from edgekit.model.ready import VARIANT_ERRORS, Choices, open_variant, why_excluded
    from edgekit.model.synthetic import run_synthetic

    bundle = open_bundle(task["bundle"])
    variant = next(one for one in bundle.manifest.variants if one.id == task["variant"])
    try:
        ready = open_variant(bundle, variant, task["options"], Choices())
        for seed in range(_INFERENCES):
            run_synthetic(ready, seed)
        ready.close()
    except VARIANT_ERRORS as error:
        return why_excluded(error)
    return ""


if __name__ == "__main__":
    sys.exit(run_job(_try, dict[str, Any]))
