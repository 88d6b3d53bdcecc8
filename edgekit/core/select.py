"""Choose the variant of a model that runs on a device, with the reasons against each other one.

A pure function: the fleet's preview uses the same code as the device.
"""

import re
from collections.abc import Collection, Mapping

import msgspec

from edgekit.core.errors import NoVariantError
from edgekit.core.spec import AGENT, BackendFact, Facts, Manifest, Profile, Requires, Variant, version_key

_CONDITION = re.compile(r"(>=|<=|==|>|<)\s*([\w.]+)")


class Rejection(msgspec.Struct, frozen=True):
    """A variant that cannot run here, and every reason."""

    variant: str
    reasons: tuple[str, ...]


class Candidate(msgspec.Struct, frozen=True):
    """A variant that can run here, and its measured cost if any."""

    variant: Variant
    p50_ms: float | None
    measured_by: str


class Selection(msgspec.Struct, frozen=True):
    """The candidates, the chosen one first, and the rejected with reasons."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...]
    why: str

    @property
    def chosen(self) -> Variant | None:
        """The variant to run; None where none fits."""
        return self.candidates[0].variant if self.candidates else None


def select(
    manifest: Manifest,
    facts: Facts,
    profile: Profile,
    measured: Mapping[str, float] | None = None,
    *,
    exclude: Mapping[str, str] | None = None,
    named: str | None = None,
) -> Selection:
    """Return the variant to run, and why each other one was not chosen.

    Variants that the hardware, the runtimes, memory or the profile rule out, and those beyond their quality
    gate, are rejected with every reason. The rest are ranked by the median inference time measured on this
    device, if all have one; else by the manifest's costs for this profile, if all have one; else by the
    profile's order of backends, then of precisions, then the manifest's order. A ranking never mixes measured
    and unmeasured variants.

    ``measured``: median milliseconds on this device, by variant id. ``exclude``: the reasons, by id, not to
    choose a variant, such as a lost accelerator. ``named``: the user named it; it may be beyond its gate.
    """
    rejected, fitting = [], []
    for variant in manifest.variants:
        reasons = reasons_against(variant, facts, profile)
        if variant.id != named:
            reasons += _marks_against(variant)
        if exclude and variant.id in exclude:
            reasons.append(exclude[variant.id])
        if reasons:
            rejected.append(Rejection(variant.id, tuple(reasons)))
        else:
            fitting.append(variant)
    candidates, why = _rank(fitting, profile, dict(measured or {}))
    return Selection(tuple(candidates), tuple(rejected), why)


def require(selection: Selection, manifest: Manifest, device: str) -> Variant:
    """Return the chosen variant.

    Raises:
        NoVariantError: None fits; ``reasons`` has each variant's.
    """
    if selection.chosen is not None:
        return selection.chosen
    raise NoVariantError(
        f"no variant of '{manifest.model} {manifest.version}' runs on '{device}'",
        reasons=tuple(f"{r.variant}: {'; '.join(r.reasons)}" for r in selection.rejected),
        hint="publish a variant that fits, or change the device profile",
    )


def reasons_against(variant: Variant, facts: Facts, profile: Profile) -> list[str]:
    """Return every reason why a variant cannot run on a device; empty where it can."""
    reasons = _requirements_unmet(variant.requires, facts)
    if variant.backend == AGENT:  # no runtime opens it; the device checks its version lock
        return reasons
    if variant.accelerator != "cpu":
        reasons += _accelerator_missing(variant, facts)
    reasons += _backend_missing(variant, facts) + wrong_arithmetic(variant, facts.arch, facts.cpu_features)
    if variant.backend != "null" and profile.backend and _order(variant, profile) is None:
        reasons.append(
            f"profile '{profile.id}' has no backend '{variant.backend}' on '{variant.accelerator}'"
            f" for {variant.precision}"
        )
    return reasons


def _marks_against(variant: Variant) -> list[str]:
    quality = variant.quality
    if quality is None or not quality.beyond_gate:
        return []
    kept = f"{quality.metric} {quality.value:g} of {quality.reference:g}"
    return [f"{kept} is beyond the gate: it is kept for comparison and runs only if named"]


def _requirements_unmet(requires: Requires, facts: Facts) -> list[str]:
    reasons = []
    if requires.arch and facts.arch not in requires.arch:
        reasons.append(f"needs {' or '.join(requires.arch)}, this device is {facts.arch}")
    if missing := [f for f in requires.cpu_features if f not in facts.cpu_features]:
        reasons.append(f"needs CPU features {', '.join(missing)}, this CPU lacks them")
    free_mb = facts.memory_free_mb or facts.memory_mb
    if requires.memory_mb and free_mb and requires.memory_mb > free_mb:
        reasons.append(f"needs {requires.memory_mb} MiB of memory, {free_mb} MiB is free")
    if requires.edgetpu_runtime:
        runtime = next(
            (a.attributes.get("runtime", "") for a in facts.accelerators if a.kind == "edgetpu"), ""
        )
        if not satisfies(runtime, requires.edgetpu_runtime):
            reasons.append(f"needs Edge TPU runtime {requires.edgetpu_runtime}, found {runtime or 'none'}")
    return reasons


def _accelerator_missing(variant: Variant, facts: Facts) -> list[str]:
    present = [a for a in facts.accelerators if a.kind == variant.accelerator]
    if not present:
        return [f"needs accelerator '{variant.accelerator}', this device has none"]
    if not any(a.usable for a in present):
        return [f"accelerator '{variant.accelerator}' is present but not usable: {present[0].reason}"]
    return []


def _backend_missing(variant: Variant, facts: Facts) -> list[str]:
    if variant.backend == "null":
        return []
    same = [b for b in facts.backends if b.name == variant.backend]
    exact = next((b for b in same if b.accelerator == variant.accelerator), None)
    if exact is None:
        return [_absent(variant, same)]
    reasons = []
    if not exact.works:
        reasons.append(f"backend '{exact.name}' on '{exact.accelerator}' does not work: {exact.reason}")
    required = variant.requires.backend_version
    if required and not satisfies(exact.version, required):
        reasons.append(f"needs {exact.name} {required}, found {exact.version or 'none'}")
    return reasons


# CPU features with 8-bit dot products that accumulate in 32 bits.
_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})


def wrong_arithmetic(variant: Variant, arch: str, cpu_features: Collection[str]) -> list[str]:
    """Return why a runtime would compute a variant wrongly on this CPU without an error; else empty.

    OpenVINO multiplies unsigned 8-bit activations by signed 8-bit weights. On x86-64 without VNNI it adds
    products of two neighbours in 16 bits, which saturate: imu-exercise is off by 7 to 10 on an EPYC with AVX2
    only, where 2 is allowed. On ARM its int8 convolutions are off by 6 to 20 (OpenVINO 2026.4, emulated
    Cortex-A76 and Neoverse V1). Source: openvinotoolkit/openvino issue 34673.
    """
    if (variant.backend, variant.accelerator, variant.precision) != ("openvino", "cpu", "int8"):
        return []
    if "LP_TRANSFORMS_MODE" in variant.options.get("properties", {}):  # runs as float
        return []
    if arch == "aarch64":
        return ["openvino's int8 gives wrong answers on ARM CPUs: use int8 of litert or onnxruntime"]
    if cpu_features and not _DOT_PRODUCTS & set(cpu_features):
        return [
            "openvino's int8 sums saturate on x86-64 without VNNI or AMX: use int8 of litert or onnxruntime"
        ]
    return []


def _absent(variant: Variant, same: list[BackendFact]) -> str:
    if same:
        return f"backend '{variant.backend}' was not proved on '{variant.accelerator}'"
    return f"backend '{variant.backend}' is not installed"


def _order(variant: Variant, profile: Profile) -> tuple[int, int] | None:
    for rank, backend in enumerate(profile.backend):
        if (backend.name, backend.accelerator) != (variant.backend, variant.accelerator):
            continue
        if not backend.precisions:
            return rank, 0
        if variant.precision in backend.precisions:
            return rank, backend.precisions.index(variant.precision)
    return None


def _rank(
    fitting: list[Variant], profile: Profile, measured: dict[str, float]
) -> tuple[list[Candidate], str]:
    if not fitting:
        return [], "no variant fits"
    stated = {v.id: c.p50_ms for v in fitting for c in v.cost if c.profile == profile.id}
    orders = {v.id: _order(v, profile) or (0, 0) for v in fitting}
    positions = {v.id: position for position, v in enumerate(fitting)}
    for costs, by, why in (
        (measured, "this device", "fastest by measurement on this device"),
        (stated, "bundle", f"fastest by the bundle's costs for profile '{profile.id}'"),
    ):
        if all(v.id in costs for v in fitting):
            ranked = sorted(fitting, key=lambda v: (costs[v.id], positions[v.id]))
            return [Candidate(v, costs[v.id], by) for v in ranked], why
    ranked = sorted(fitting, key=lambda v: (orders[v.id], positions[v.id]))
    return (
        [Candidate(v, None, "") for v in ranked],
        f"first by the order of profile '{profile.id}'; not every fitting variant is measured here",
    )


def satisfies(version: str, condition: str) -> bool:
    """Return whether a version meets conditions such as ``">=14"`` or ``">=2.1, <3"``.

    >>> satisfies("14.1", ">=14"), satisfies("13", ">=14"), satisfies("", ">=14")
    (True, False, False)
    """
    if not version:
        return False
    have = version_key(version)
    for sign, bound in _CONDITION.findall(condition):
        want = version_key(bound)
        width = max(len(have), len(want))
        left, right = (key + (0,) * (width - len(key)) for key in (have, want))
        holds = {">=": left >= right, "<=": left <= right, "==": left == right, ">": left > right}
        if not holds.get(sign, left < right):
            return False
    return True
