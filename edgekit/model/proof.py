"""Proves a variant by real inferences in a child process (``proof_child``).

A model may load and then abort the process on its first inference or when it is freed; a runtime may hang.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.base.child import Child, ChildFault
from edgekit.core.errors import InferenceError
from edgekit.core.spec import Variant

if TYPE_CHECKING:
    from edgekit.model.bundle import Bundle

TIMEOUT_S = 120.0


def prove(bundle: Bundle, variant: Variant, options: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> None:
    """Open a variant in a child process, run its golden samples and synthetic input, and close it.

    Raises:
        InferenceError: The process crashed or hung.
        EdgekitError: As ``open_variant`` does.
    """
    source = bundle.source if bundle.is_bare else bundle.root
    task = {"bundle": str(source), "variant": variant.id, "options": dict(options)}
    try:
        with Child("edgekit.model.proof_child", log=subprocess.DEVNULL) as child:
            child.ask(task, bool, timeout_s)
    except ChildFault as fault:
        raise InferenceError(f"tried in a process of its own, it {fault}") from fault
