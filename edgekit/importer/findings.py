"""What the importer concludes of a file: findings, each with its source and the flag that overrides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgekit.core.spec import Datatype, Finding, State

PRE_KEYS = frozenset(
    {
        "resize",
        "align",
        "color",
        "mean",
        "std",
        "pad",
        "crop_ratio",
        "window",
        "hop",
        "context",
        "rate_hz",
        "front_end",
        "columns",
    }
)
POST_KEYS = frozenset({"decoder", "score_threshold", "iou_threshold", "top_k"})
OWN_KEYS = frozenset({"task", "labels", "size", "license", "header"})
"""Keys that are neither of ``pre`` nor ``post``; any other key is an option of the decoder."""


def pre_keys_of(decoder: str) -> frozenset[str]:
    """Return the keys that are fields of ``pre``; a decoder of lists has a ``columns`` of its own."""
    return PRE_KEYS - {"columns"} if decoder == "detections" else PRE_KEYS


def flag_of(key: str) -> str:
    """Return the flag that states another value of a key."""
    return f"--{key}" if key in ("decoder", "labels", "license") else f"{key}=VALUE"


@dataclass(frozen=True)
class Output:
    """A logical output: the file's tensor, and its logical shape and layout where they differ."""

    tensor: str
    shape: tuple[int, ...] = ()
    layout: Literal["NHWC", "NCHW", ""] = ""


@dataclass(frozen=True)
class Input:
    """A logical input: the file's tensor, and its logical datatype and shape where they differ."""

    tensor: str
    datatype: Datatype | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What one family makes of a file.

    Args:
        family: The row's name.
        findings: In the order in which they are printed; must hold ``task`` and ``decoder``.
        outputs: Logical name to the file's output.
        inputs: Logical name to the file's input. The only image is ``image``, and is not named here: it is an
            input where all those named are constants.
        is_stated: The file's metadata name the family: shapes of other families do not count.
        asks: Flags without which the family cannot be used, each with why only the user knows.
        decoders: Those that the shapes allow, where only the user knows which one it is.
        state: Logical recurrent tensors.
        constants: Logical inputs that always have one value.
        shapes: The file's inputs, by its own names, whose free dimensions the family fixes.
        no_real_file: No real file of this family was ever decoded: said in print and in ``explain``.
    """

    family: str
    findings: Sequence[Finding]
    outputs: Mapping[str, Output]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    is_stated: bool = False
    asks: Mapping[str, str] = field(default_factory=dict)
    decoders: Sequence[str] = ()
    state: Sequence[State] = ()
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    no_real_file: bool = False

    @property
    def takes_image(self) -> bool:
        """Whether the file's only image is an input of the model."""
        return not (self.inputs.keys() - self.constants.keys())

    def value(self, key: str) -> Any:
        """Return what was concluded of a key, or None."""
        return next((f.value for f in self.findings if f.key == key), None)
