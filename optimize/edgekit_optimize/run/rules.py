"""Plan which candidates to make for which boards, from a table of rules. Pure functions.

A rule says what a candidate is made from and when it makes sense; a board's profile says what the
board can run. How fast a candidate is, only measurement decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from edgekit.core.errors import ModelError
from edgekit.core.spec import AcceleratorKind, BackendName, Precision, Profile
from edgekit_optimize.plan import Form, Plan, Root

Need = Literal["calibration", "image", "exhaustive"]


class Rule(msgspec.Struct, frozen=True):
    """One kind of candidate; its id begins with its backend.

    ``form``: the form that the root must have. ``needs``: *calibration* data, an *image* input, or an
    *exhaustive* search. ``not_for``: tasks that it does not help. ``shares``: the id of the rule whose
    file this one runs too; if that rule is not chosen, this candidate is made by itself.
    """

    id: str
    technique: str
    form: Form
    precision: Precision = "fp32"
    accelerator: AcceleratorKind = "cpu"
    options: dict[str, Any] = {}
    needs: tuple[Need, ...] = ()
    not_for: tuple[str, ...] = ()
    shares: str = ""

    @property
    def backend(self) -> BackendName:
        """The backend that runs it."""
        return _BACKENDS[self.id.partition("-")[0]]


_BACKENDS: dict[str, BackendName] = {
    "litert": "litert",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "foreign": "foreign",
}
_FORMS = {"onnx": "ONNX", "tflite": "TensorFlow Lite", "openvino": "OpenVINO"}
_STATIC: tuple[Need, ...] = ("calibration",)
_PIXELS: tuple[Need, ...] = ("calibration", "image")
_SECOND: tuple[Need, ...] = ("calibration", "exhaustive")

FLOATS: dict[Form, Rule] = {
    "onnx": Rule("onnxruntime-fp32", "onnx-float", "onnx"),
    "tflite": Rule("litert-fp32", "litert-float", "tflite"),
    "openvino": Rule("openvino-fp32", "openvino-float", "openvino"),
}
"""The float candidate of each form: the reference that others are compared with."""

RULES: tuple[Rule, ...] = (
    *FLOATS.values(),
    Rule("litert-int8", "litert-static", "tflite", "int8", needs=_STATIC),
    # u8s8: unsigned activations, signed weights. Signed both ways gains nothing on x86.
    Rule("onnxruntime-int8", "onnx-static", "onnx", "int8", needs=_STATIC),
    Rule("openvino-int8", "openvino-static", "openvino", "int8", needs=_STATIC),
    # OpenVINO runs ONNX Runtime's file faster than its own tool's on depthwise networks.
    Rule("openvino-int8-qdq", "onnx-static", "onnx", "int8", needs=_STATIC, shares="onnxruntime-int8"),
    # The TensorFlow Lite file's integers in ONNX: the same outputs on both runtimes.
    Rule("onnxruntime-int8-exact", "onnx-exact", "tflite", "int8", needs=_STATIC),
    Rule(
        "openvino-int8-exact",
        "onnx-exact",
        "tflite",
        "int8",
        needs=_STATIC,
        shares="onnxruntime-int8-exact",
    ),
    # Preprocessing in the model only pays off if the runtime fuses it; measurement decides.
    Rule(
        "openvino-int8-pixels",
        "openvino-static",
        "openvino",
        "int8",
        options={"pixels": True},
        needs=_PIXELS,
    ),
    Rule("onnxruntime-fp32-fused", "onnx-float", "onnx", options={"fused": True}),
    Rule("openvino-bf16", "openvino-float", "openvino", "bf16", shares="openvino-fp32"),
    Rule("litert-dynamic-int8", "litert-weights", "tflite", "dynamic-int8", options={"bits": 8}),
    Rule("litert-fp16", "litert-half", "tflite", "fp16"),
    Rule("litert-int4", "litert-weights", "tflite", "int4", options={"bits": 4}),
    # ONNX Runtime's integer convolution is far slower than its float one; matrix products gain.
    Rule(
        "onnxruntime-dynamic-int8",
        "onnx-dynamic",
        "onnx",
        "dynamic-int8",
        not_for=("classify", "detect", "face"),
    ),
    # Files for accelerators. If this machine lacks one, accuracy is measured on the CPU.
    Rule("litert-int8-edgetpu", "litert-edgetpu", "tflite", "int8", "edgetpu", needs=_STATIC),
    # TensorRT only supports signed activations with zero point 0.
    Rule(
        "onnxruntime-int8-tensorrt",
        "onnx-static",
        "onnx",
        "int8",
        "tensorrt",
        {"symmetric": True},
        needs=_STATIC,
    ),
    Rule(
        "foreign-int8-tensorrt",
        "onnx-static",
        "onnx",
        "int8",
        "tensorrt",
        {"symmetric": True},
        needs=_STATIC,
        shares="onnxruntime-int8-tensorrt",
    ),
    Rule(
        "onnxruntime-fp16-tensorrt", "onnx-half", "onnx", "fp16", "tensorrt", shares="onnxruntime-fp16-cuda"
    ),
    # TensorRT's builder converts a float file to half precision itself.
    Rule("foreign-fp16-tensorrt", "onnx-float", "onnx", "fp16", "tensorrt", shares="onnxruntime-fp32"),
    Rule("onnxruntime-fp16-cuda", "onnx-half", "onnx", "fp16", "cuda"),
    Rule(
        "openvino-int8-npu",
        "openvino-static",
        "openvino",
        "int8",
        "npu",
        needs=_STATIC,
        shares="openvino-int8",
    ),
    Rule("openvino-fp16-npu", "openvino-float", "openvino", "fp16", "npu", shares="openvino-fp32"),
    Rule(
        "openvino-int8-gpu",
        "openvino-static",
        "openvino",
        "int8",
        "openvino-gpu",
        needs=_STATIC,
        shares="openvino-int8",
    ),
    Rule("openvino-fp16-gpu", "openvino-float", "openvino", "fp16", "openvino-gpu", shares="openvino-fp32"),
    Rule("foreign-fp16-myriad", "myriad", "onnx", "fp16", "myriad"),
    # Alternatives to the defaults, for an exhaustive search.
    Rule(
        "onnxruntime-int8-percentile",
        "onnx-static",
        "onnx",
        "int8",
        options={"ranges": "percentile"},
        needs=_SECOND,
    ),
    Rule(
        "litert-int8-percentile",
        "litert-static",
        "tflite",
        "int8",
        options={"ranges": "percentile"},
        needs=_SECOND,
    ),
    Rule(
        "openvino-int8-accurate",
        "openvino-static",
        "openvino",
        "int8",
        options={"fast_bias": False},
        needs=_SECOND,
    ),
    Rule(
        "onnxruntime-int8-pixels",
        "onnx-static",
        "onnx",
        "int8",
        options={"pixels": True},
        needs=(*_PIXELS, "exhaustive"),
    ),
    Rule("onnxruntime-fp16", "onnx-half", "onnx", "fp16", needs=("exhaustive",)),
    Rule(
        "openvino-fp32-pixels",
        "openvino-float",
        "openvino",
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
    task: str,
    exhaustive: bool = False,
) -> tuple[Plan, ...]:
    """Return the plans of a model's candidates for some boards, the reference first.

    A candidate is planned if a target can run it, the root has the form, and the data it needs exist.
    The reference is always planned, even if no target can run it.

    Args:
        root_forms: The float model.
        targets: The boards; none means that only the reference is planned.
        has_calibration: Whether there are samples to measure activation ranges with.
        task: The model's task.
        exhaustive: Also plan candidates that seldom win.

    Raises:
        ModelError: The root has no form at all.
    """
    reference = reference_plan(root_forms)
    available = {
        need for need, is_given in _given(root_forms, has_calibration, exhaustive).items() if is_given
    }
    chosen = [
        rule
        for rule in RULES
        if task not in rule.not_for
        and available.issuperset(rule.needs)
        and getattr(root_forms, rule.form)
        and (rule.id == reference.id or any(not _refusal(rule, board) for board in targets))
    ]
    ids = {rule.id for rule in chosen}
    plans = [_plan(rule, root_forms, rule.shares if rule.shares in ids else "") for rule in chosen]
    return tuple(sorted(plans, key=lambda plan: plan.id != reference.id))


def reference_plan(root: Root) -> Plan:
    """Return the plan of the reference: the float model in its canonical form.

    Raises:
        ModelError: The root has no form at all.
    """
    if not (root.onnx or root.tflite or root.openvino):
        raise ModelError(
            f"model {root.id!r} could not be converted to any form that a runtime opens",
            reasons=tuple(f"{form}: {why}" for form, why in sorted(root.missing.items())),
            hint="export it to ONNX, TensorFlow Lite or OpenVINO IR with fixed shapes",
        )
    return _plan(FLOATS[root.canonical], root, "")


def left_out(root: Root) -> tuple[str, ...]:
    """Return a sentence for each form that the model could not be converted to, with the reason."""
    return tuple(
        f"no candidate was made in {_FORMS[form]}, since the model could not be converted to it: {why}"
        for form, why in sorted(root.missing.items())
    )


def allowed(plan: Plan, profile: Profile) -> str:
    """Return why a board cannot run a plan's file; empty if it can."""
    return _refusal(plan, profile)


def mixed(plan: Plan, keep_float_sets: Sequence[tuple[str, ...]]) -> tuple[Plan, ...]:
    """Return variants of a static int8 plan that leave some layers in float.

    Args:
        plan: The plan with every layer quantised; its mixed variants never share files.
        keep_float_sets: For each variant the names of the layers to leave in float. Empty sets and
            sets of a repeated size are skipped, so that ids stay unique.
    """
    if not plan.technique.endswith(("-static", "-exact")):
        return ()
    by_size = {len(layers): layers for layers in reversed(keep_float_sets) if layers}
    return tuple(
        msgspec.structs.replace(
            plan,
            id=f"{plan.id}-mixed{size}",
            options=plan.options | {"keep_float": list(by_size[size])},
            same_as="",
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


def _refusal(rule: Rule | Plan, profile: Profile) -> str:
    rows = [row for row in profile.backend if row.name == rule.backend]
    if not rows:
        return f"profile '{profile.id}' has no backend '{rule.backend}'"
    rows = [row for row in rows if row.accelerator == rule.accelerator]
    if not rows:
        return f"profile '{profile.id}' has no '{rule.accelerator}' for backend '{rule.backend}'"
    if any(not row.precisions or rule.precision in row.precisions for row in rows):
        return ""
    listed = ", ".join(sorted({precision for row in rows for precision in row.precisions}))
    return (
        f"profile '{profile.id}' runs {listed} with '{rule.backend}' on '{rule.accelerator}',"
        f" not {rule.precision}"
    )
