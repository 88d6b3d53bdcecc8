"""Judges between families, applies the user's flags, and asks back what nothing but the user can say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.core.errors import BundleError
from edgekit.core.spec import Finding
from edgekit.importer.families import conclusions_of
from edgekit.importer.findings import Conclusion, flag_of
from edgekit.importer.given import with_input
from edgekit.importer.model_file import ModelFile

Draw = Callable[[Sequence[str]], str]
_RAW = "or --decoder raw for a bundle of plain tensors"


def _nothing(_families: Sequence[str]) -> str:
    return ""


def plausible(file: ModelFile) -> list[Conclusion]:
    """Return what every family makes of a file that fits it; ``--decoder`` leaves those that it names.

    Raises:
        BundleError: None fits.
    """
    fitting = conclusions_of(file)
    if any(row.is_stated for row in fitting):
        fitting = [row for row in fitting if row.is_stated]
    wanted = str(file.flags.get("decoder", "")).lower()
    if wanted:
        fitting = [row for row in fitting if wanted in (row.family, row.value("decoder"))]
    if not fitting:
        raise _unknown(file, wanted)
    return fitting


def conclude(file: ModelFile, draw: Draw = _nothing) -> Conclusion:
    """Return the only conclusion that a file allows, with the user's flags in place of what they override.

    Args:
        file: With what it answered.
        draw: Draws what several families or decoders make of the user's pictures, and returns a phrase on it;
            called where only the user knows which one is right.

    Raises:
        BundleError: No family fits, several do, the metadata contradict the shapes, or only the user can say
            what is missing; the error names the flags.
    """
    fitting = plausible(file)
    if len(fitting) > 1:
        raise BundleError(
            f"{file.path}: fits {len(fitting)} families, and nothing in the file says which",
            reasons=tuple(f"--decoder {row.family}: {_why(row)}" for row in fitting),
            hint=f"say which one it is with one of these flags{draw([row.family for row in fitting])}",
        )
    conclusion = with_flags(with_input(fitting[0], file), file.flags)
    asked = {key: why for key, why in conclusion.asks.items() if key not in file.flags}
    if asked:
        raise BundleError(
            f"{file.path}: looks like {conclusion.family}, and only you know: {', '.join(asked)}",
            reasons=tuple(f"{flag_of(key)}: {why}" for key, why in asked.items()),
            hint=f"say it with these flags{draw(conclusion.decoders) if conclusion.decoders else ''}",
        )
    return conclusion


def with_flags(conclusion: Conclusion, flags: Mapping[str, Any]) -> Conclusion:
    """Return a conclusion with what the user stated: it replaces a finding of its key, or adds one."""
    stated = {key: value for key, value in flags.items() if key != "decoder"}
    if conclusion.value("labels") is not None and "labels" in stated:
        _check_labels(conclusion, stated["labels"])
    findings = [
        Finding(row.key, stated.pop(row.key), "flag", f"in place of {row.value!r} ({row.source})"[:200])
        if row.key in stated
        else row
        for row in conclusion.findings
    ]
    findings += [Finding(key, value, "flag") for key, value in stated.items()]
    return replace(conclusion, findings=tuple(findings))


def _check_labels(conclusion: Conclusion, labels: tuple[str, ...]) -> None:
    known = conclusion.value("labels")
    if len(known) != len(labels):
        raise BundleError(
            f"--labels has {len(labels)} labels, the model has {len(known)} classes",
            hint="give one label for each class, in their order",
        )


def _why(conclusion: Conclusion) -> str:
    return (
        "; ".join(f"{row.key} {row.why}" for row in conclusion.findings if row.why)[:200] or "by its shapes"
    )


def _unknown(file: ModelFile, wanted: str) -> BundleError:
    tensors = [
        f"{what} {tensor.name!r}: {tensor.datatype} {list(shape)}"
        for what, tensor, shape in (
            *(("input", t, t.shape) for t in file.inputs),
            *(("output", t, file.shape_of(t)) for t in file.outputs),
        )
    ]
    about = f"is not a {wanted!r} file" if wanted else "no family that edgekit knows has this signature"
    return BundleError(
        f"{file.path}: {about}",
        reasons=tuple(tensors),
        hint=f"say what it is with --decoder NAME (docs/importing.md lists them), {_RAW}",
    )
