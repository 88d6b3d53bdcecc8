"""Which candidates are worth making for which boards: a table and three pure questions to it.

Nothing here knows how fast anything is. A row says what a candidate is made of and when it makes
sense; a board's profile says what the board can run; measurement decides between what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from edgekit.core.errors import ModelError
from edgekit.core.spec import AcceleratorKind, BackendName, Precision, Profile, Task
from edgekit.optimize.plan import Form, Plan, Root

Need = Literal["calibration", "image", "exhaustive"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of candidate.

    ``forms``: the root must have one of them. ``needs``: *calibration* data, an *image* input, or
    the user's wish for an *exhaustive* search. ``not_for``: tasks in which it has no use.
    ``shares``: the id of the row whose file this one runs; where that row is no candidate itself,
    this one is made alone.
    """

    id: str
    technique: str
    backend: BackendName
    forms: tuple[Form, ...]
    accelerator: AcceleratorKind = "cpu"
    precision: Precision = "fp32"
    options: dict[str, Any] = {}
    needs: tuple[Need, ...] = ()
    not_for: tuple[Task, ...] = ()
    shares: str = ""


_TFLITE: tuple[Form, ...] = ("tflite",)
_ONNX: tuple[Form, ...] = ("onnx",)
_IR: tuple[Form, ...] = ("openvino",)

FLOATS: dict[Form, Rule] = {
    "onnx": Rule(id="onnxruntime-fp32", technique="onnx-float", backend="onnxruntime", forms=_ONNX),
    "tflite": Rule(id="litert-fp32", technique="litert-float", backend="litert", forms=_TFLITE),
    "openvino": Rule(id="openvino-fp32", technique="openvino-float", backend="openvino", forms=_IR),
}
"""The float candidate of each form: what everything else is held against."""

RULES: tuple[Rule, ...] = (
    *FLOATS.values(),
    Rule(
        id="litert-int8",
        technique="litert-static",
        backend="litert",
        forms=_TFLITE,
        precision="int8",
        needs=("calibration",),
    ),
    # u8s8: unsigned activations, signed weights. Signed both ways gains nothing on x86.
    Rule(
        id="onnxruntime-int8",
        technique="onnx-static",
        backend="onnxruntime",
        forms=_ONNX,
        precision="int8",
        needs=("calibration",),
    ),
    Rule(
        id="openvino-int8",
        technique="openvino-static",
        backend="openvino",
        forms=_IR,
        precision="int8",
        needs=("calibration",),
    ),
    # OpenVINO runs ONNX Runtime's file faster than its own tool's on depthwise networks.
    Rule(
        id="openvino-int8-qdq",
        technique="onnx-static",
        backend="openvino",
        forms=_ONNX,
        precision="int8",
        needs=("calibration",),
        shares="onnxruntime-int8",
    ),
    # The integers of the TensorFlow Lite file in ONNX: the same answers on both runtimes.
    Rule(
        id="onnxruntime-int8-exact",
        technique="onnx-exact",
        backend="onnxruntime",
        forms=_TFLITE,
        precision="int8",
        needs=("calibration",),
    ),
    # Preprocessing inside the model pays only where the runtime fuses it; measured, not assumed.
    Rule(
        id="openvino-int8-pixels",
        technique="openvino-static",
        backend="openvino",
        forms=_IR,
        precision="int8",
        options={"pixels": True},
        needs=("calibration", "image"),
    ),
    Rule(
        id="onnxruntime-int8-pixels",
        technique="onnx-static",
        backend="onnxruntime",
        forms=_ONNX,
        precision="int8",
        options={"pixels": True},
        needs=("calibration", "image", "exhaustive"),
    ),
    Rule(
        id="onnxruntime-fp32-fused",
        technique="onnx-float",
        backend="onnxruntime",
        forms=_ONNX,
        options={"fused": True},
    ),
    Rule(
        id="openvino-bf16",
        technique="openvino-float",
        backend="openvino",
        forms=_IR,
        precision="bf16",
        shares="openvino-fp32",
    ),
    Rule(
        id="litert-dynamic-int8",
        technique="litert-weights",
        backend="litert",
        forms=_TFLITE,
        precision="dynamic-int8",
        options={"bits": 8},
    ),
    Rule(id="litert-fp16", technique="litert-half", backend="litert", forms=_TFLITE, precision="fp16"),
    Rule(
        id="litert-int4",
        technique="litert-weights",
        backend="litert",
        forms=_TFLITE,
        precision="int4",
        options={"bits": 4},
    ),
    Rule(
        id="onnxruntime-dynamic-int8",
        technique="onnx-dynamic",
        backend="onnxruntime",
        forms=_ONNX,
        precision="dynamic-int8",
        # ONNX Runtime's integer convolution is far slower than its float one; matrix products gain
        not_for=("classify", "detect", "face"),
    ),
    # Files for accelerators. Where this machine lacks one, accuracy is measured on its CPU.
    Rule(
        id="litert-int8-edgetpu",
        technique="litert-edgetpu",
        backend="litert",
        forms=_TFLITE,
        accelerator="edgetpu",
        precision="int8",
        needs=("calibration",),
    ),
    # TensorRT takes signed activations with zero point 0 only.
    Rule(
        id="onnxruntime-int8-tensorrt",
        technique="onnx-static",
        backend="onnxruntime",
        forms=_ONNX,
        accelerator="tensorrt",
        precision="int8",
        options={"symmetric": True},
        needs=("calibration",),
    ),
    Rule(
        id="foreign-int8-tensorrt",
        technique="onnx-static",
        backend="foreign",
        forms=_ONNX,
        accelerator="tensorrt",
        precision="int8",
        options={"symmetric": True},
        needs=("calibration",),
        shares="onnxruntime-int8-tensorrt",
    ),
    Rule(
        id="onnxruntime-fp16-tensorrt",
        technique="onnx-half",
        backend="onnxruntime",
        forms=_ONNX,
        accelerator="tensorrt",
        precision="fp16",
        shares="onnxruntime-fp16-cuda",
    ),
    # TensorRT's own builder halves a float file.
    Rule(
        id="foreign-fp16-tensorrt",
        technique="onnx-float",
        backend="foreign",
        forms=_ONNX,
        accelerator="tensorrt",
        precision="fp16",
        shares="onnxruntime-fp32",
    ),
    Rule(
        id="onnxruntime-fp16-cuda",
        technique="onnx-half",
        backend="onnxruntime",
        forms=_ONNX,
        accelerator="cuda",
        precision="fp16",
    ),
    Rule(
        id="openvino-int8-npu",
        technique="openvino-static",
        backend="openvino",
        forms=_IR,
        accelerator="npu",
        precision="int8",
        needs=("calibration",),
        shares="openvino-int8",
    ),
    Rule(
        id="openvino-fp16-npu",
        technique="openvino-float",
        backend="openvino",
        forms=_IR,
        accelerator="npu",
        precision="fp16",
        shares="openvino-fp32",
    ),
    Rule(
        id="openvino-int8-gpu",
        technique="openvino-static",
        backend="openvino",
        forms=_IR,
        accelerator="openvino-gpu",
        precision="int8",
        needs=("calibration",),
        shares="openvino-int8",
    ),
    Rule(
        id="openvino-fp16-gpu",
        technique="openvino-float",
        backend="openvino",
        forms=_IR,
        accelerator="openvino-gpu",
        precision="fp16",
        shares="openvino-fp32",
    ),
    Rule(
        id="foreign-fp16-myriad",
        technique="myriad",
        backend="foreign",
        forms=_ONNX,
        accelerator="myriad",
        precision="fp16",
    ),
    # Second tries at what the defaults may have missed.
    Rule(
        id="onnxruntime-int8-percentile",
        technique="onnx-static",
        backend="onnxruntime",
        forms=_ONNX,
        precision="int8",
        options={"ranges": "percentile"},
        needs=("calibration", "exhaustive"),
    ),
    Rule(
        id="litert-int8-percentile",
        technique="litert-static",
        backend="litert",
        forms=_TFLITE,
        precision="int8",
        options={"ranges": "percentile"},
        needs=("calibration", "exhaustive"),
    ),
    Rule(
        id="openvino-int8-accurate",
        technique="openvino-static",
        backend="openvino",
        forms=_IR,
        precision="int8",
        options={"fast_bias": False},
        needs=("calibration", "exhaustive"),
    ),
    Rule(
        id="onnxruntime-fp16",
        technique="onnx-half",
        backend="onnxruntime",
        forms=_ONNX,
        precision="fp16",
        needs=("exhaustive",),
    ),
    Rule(
        id="openvino-fp32-pixels",
        technique="openvino-float",
        backend="openvino",
        forms=_IR,
        options={"pixels": True},
        needs=("image", "exhaustive"),
    ),
)
"""Every kind of candidate, in the order in which they are made."""

_MAX_MIXED = 12


def plan_candidates(
    root_forms: Root,
    targets: Sequence[Profile],
    *,
    has_calibration: bool,
    task: Task,
    exhaustive: bool = False,
) -> tuple[Plan, ...]:
    """Return what to make of a model for some boards, the reference first.

    A candidate is planned when a target can run it, the root has a form it can be made of, and the
    data it needs are there. The reference is always planned, even where no target runs it.

    Args:
        root_forms: The float model.
        targets: The boards; none means that only the reference is planned.
        has_calibration: Whether there are samples to find the ranges of activations with.
        task: The model's task.
        exhaustive: Also plan what seldom wins.

    Raises:
        ModelError: The root has no form at all.
    """
    reference = reference_plan(root_forms)
    given = {need for need, is_given in _given(root_forms, has_calibration, exhaustive).items() if is_given}
    chosen = [
        rule
        for rule in RULES
        if task not in rule.not_for
        and given.issuperset(rule.needs)
        and any(getattr(root_forms, form) for form in rule.forms)
        and (rule.id == reference.id or any(not _refusal(rule, board) for board in targets))
    ]
    ids = {rule.id for rule in chosen}
    plans = [_plan(rule, root_forms, rule.shares if rule.shares in ids else "") for rule in chosen]
    return tuple(sorted(plans, key=lambda plan: plan.id != reference.id))


def reference_plan(root: Root) -> Plan:
    """Return the plan of the float model that every candidate is held against: the canonical form.

    Raises:
        ModelError: The root has no form at all.
    """
    if not (root.onnx or root.tflite or root.openvino):
        raise ModelError(
            f"model {root.id!r} could be brought into no form that a runtime opens",
            reasons=tuple(f"{form}: {why}" for form, why in sorted(root.missing.items())),
            hint="export it to ONNX, TensorFlow Lite or OpenVINO IR with fixed shapes",
        )
    return _plan(FLOATS[root.canonical], root, "")


def allowed(plan: Plan, profile: Profile) -> str:
    """Return why a board cannot run a plan's file; empty where it can."""
    return _refusal(plan, profile)


def mixed(plan: Plan, keep_float_sets: Sequence[tuple[str, ...]]) -> tuple[Plan, ...]:
    """Return variants of a static int8 plan that leave some layers in float.

    Args:
        plan: The plan with every layer quantised; one that shares another's file gives none, since
            the other one's mixed variants are shared in turn.
        keep_float_sets: For each variant the names of the layers to leave in float. An empty set, or
            one of a size that was there before, is passed over, so that ids stay unique.
    """
    if plan.same_as or not plan.technique.endswith(("-static", "-exact")):
        return ()
    by_size = {len(layers): layers for layers in reversed(keep_float_sets) if layers}
    return tuple(
        msgspec.structs.replace(
            plan, id=f"{plan.id}-mixed{size}", options=plan.options | {"keep_float": list(by_size[size])}
        )
        for size in sorted(by_size)[:_MAX_MIXED]
    )


def _given(root: Root, has_calibration: bool, exhaustive: bool) -> dict[Need, bool]:
    return {"calibration": has_calibration, "image": bool(root.image), "exhaustive": exhaustive}


def _plan(rule: Rule, root: Root, same_as: str) -> Plan:
    return Plan(
        id=rule.id,
        root=root.id,
        technique=rule.technique,
        backend=rule.backend,
        accelerator=rule.accelerator,
        precision=rule.precision,
        options=rule.options,
        same_as=same_as,
    )


def _refusal(wanted: Rule | Plan, profile: Profile) -> str:
    rows = [row for row in profile.backend if row.name == wanted.backend]
    if not rows:
        return f"profile '{profile.id}' has no backend '{wanted.backend}'"
    rows = [row for row in rows if row.accelerator == wanted.accelerator]
    if not rows:
        return f"profile '{profile.id}' has no '{wanted.accelerator}' for backend '{wanted.backend}'"
    if any(not row.precisions or wanted.precision in row.precisions for row in rows):
        return ""
    listed = ", ".join(sorted({precision for row in rows for precision in row.precisions}))
    return (
        f"profile '{profile.id}' runs {listed} with '{wanted.backend}' on '{wanted.accelerator}',"
        f" not {wanted.precision}"
    )
