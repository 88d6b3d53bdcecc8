"""The variants of a file on accelerators: on those that are here, and on those that the user names."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgekit.base.accelerators import ROWS, name_in
from edgekit.core.errors import UsageError
from edgekit.core.spec import Facts, Variant

KEY = "accelerators"
"""The flag that names accelerators, such as ``accelerators=cuda,tensorrt``."""
_FLOATS = ("fp32", "fp16")


def named_accelerators(value: object) -> tuple[str, ...]:
    """Return the kinds that the flag names; empty without it.

    Raises:
        UsageError: A kind is unknown, or takes only files that its own compiler wrote.
    """
    if value is None:
        return ()
    words = [str(word) for word in value] if isinstance(value, list | tuple) else str(value).split(",")
    known = [row.kind for row in ROWS if row.kind != "cpu" and row.proof != "none"]
    for word in words:
        if word.strip() not in known:
            raise UsageError(f"{KEY}: {word.strip()!r} is none of {', '.join(known)}")
    return tuple(word.strip() for word in words)


def on_accelerators(variant: Variant, facts: Facts, named: Sequence[str]) -> list[Variant]:
    """Return the same file as a variant of each accelerator on which its backend was proved here, or named.

    A quantised file is written for the arithmetic of one accelerator, so without a name it stays on the
    processor.
    """
    here = [
        proof.accelerator
        for proof in facts.backends
        if proof.works and proof.name == variant.backend and variant.precision in _FLOATS
    ]
    kinds = dict.fromkeys(kind for kind in (*here, *named) if kind != "cpu")
    return [
        msgspec.structs.replace(variant, id=f"{variant.id}-{kind}", accelerator=kind)
        for kind in kinds
        if variant.backend != "foreign" and name_in(variant.backend, kind) is not None
    ]


def runs_here(variant: Variant, facts: Facts) -> bool:
    """Return whether a backend was proved on a variant's accelerator; on the processor it is simply tried."""
    return variant.accelerator == "cpu" or any(
        proof.works and (proof.name, proof.accelerator) == (variant.backend, variant.accelerator)
        for proof in facts.backends
    )
