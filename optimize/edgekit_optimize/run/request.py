"""The arguments of one run of ``edgekit optimize``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.core.spec import Post, Pre, State, TensorSpec


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model file does not contain: the ``--describe`` file, and the flags.

    The defaults fit a plain image classifier or a model of raw tensors; a bundle as MODEL has its own
    description. ``outputs``, if given, must have the model's own output names and shapes.
    """

    model: str = ""
    version: str = ""
    task: str = ""
    license: str = ""
    labels: tuple[str, ...] = ()
    pre: Pre | None = None
    post: Post | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    state: tuple[State, ...] = ()


class Shrinking(msgspec.Struct, frozen=True, kw_only=True):
    """How to train smaller networks; empty strings for none.

    ``train``, ``loss``, ``student`` are ``module:function``; ``prune`` are shares of the multiply-adds
    to remove.
    """

    train: str = ""
    loss: str = ""
    prune: tuple[float, ...] = ()
    student: str = ""
    qat: bool = False
    epochs: int = 3


class Remote(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet whose measurements are used, and the device that measures; empty for none."""

    fleet: str = ""
    token: str = ""
    device: str = ""
    keys: Path | None = None
    ca: Path | None = None
    timeout_s: float = 900.0


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the search; ``max_drop`` None means 0.01 with labels and 0.03 without.

    ``states`` are pairs ``OUTPUT:INPUT`` of a model with state, in addition to the description's.
    """

    model: str
    data: str
    out: Path
    calibration: str = ""
    targets: tuple[str, ...] = ()
    metric: str = "auto"
    max_drop: float | None = None
    budget_ms: float = 0.0
    budget_mb: float = 0.0
    keep_all: bool = False
    threads: int = 1
    samples: int = 500
    calibration_samples: int = 128
    seed: int = 0
    seconds: float = 1.0
    exhaustive: bool = False
    sensitivity: bool = True
    shapes: dict[str, tuple[int, ...]] = {}
    states: tuple[str, ...] = ()
    description: Description = Description()
    shrinking: Shrinking = Shrinking()
    remote: Remote = Remote()
    cache: Path | None = None
    report: Path | None = None
    command: str = ""
