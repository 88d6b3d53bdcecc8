import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import NoVariantError
from edgekit.core.select import require, satisfies, select
from edgekit.core.spec import (
    AcceleratorFact,
    BackendFact,
    Cost,
    Facts,
    Manifest,
    Profile,
    ProfileBackend,
    Quality,
    Requires,
    Variant,
    VariantFile,
)

FILES = (VariantFile(path="f", bytes=1, sha256="0" * 64),)
LITERT = BackendFact(name="litert", version="2.3.0", works=True)
ORT = BackendFact(name="onnxruntime", version="1.31.1", works=True)
PROFILE = Profile(
    id="p",
    title="P",
    backend=(
        ProfileBackend(name="litert", accelerator="edgetpu"),
        ProfileBackend(name="litert", precisions=("int8", "fp32")),
        ProfileBackend(name="onnxruntime"),
    ),
)
FACTS = Facts(arch="x86_64", memory_mb=1000, memory_free_mb=100, backends=(LITERT, ORT))


def variant(name, backend="litert", accelerator="cpu", precision="fp32", **more):
    return Variant(
        id=name, backend=backend, accelerator=accelerator, precision=precision, files=FILES, **more
    )


def manifest(*variants):
    return Manifest(
        format=1, model="m", version="1.0.0", task="raw", inputs=(), outputs=(), variants=variants
    )


def reasons(*variants, facts=FACTS, profile=PROFILE, **more):
    return {
        r.variant: "; ".join(r.reasons) for r in select(manifest(*variants), facts, profile, **more).rejected
    }


def test_each_rejection_says_why():
    said = reasons(
        variant("tpu", accelerator="edgetpu"),
        variant("arm", requires=Requires(arch=("aarch64",))),
        variant("big", requires=Requires(memory_mb=500)),
        variant("new", requires=Requires(backend_version=">=3")),
        variant("vnni", requires=Requires(cpu_features=("avx512_vnni",))),
        variant("ov", backend="openvino"),
    )
    assert "needs accelerator 'edgetpu', this device has none" in said["tpu"]
    assert "needs aarch64, this device is x86_64" in said["arm"]
    assert "needs 500 MiB of memory, 100 MiB is free" in said["big"]
    assert "needs litert >=3, found 2.3.0" in said["new"]
    assert "avx512_vnni" in said["vnni"]
    assert "backend 'openvino' is not installed" in said["ov"]


def test_openvino_int8_is_left_out_on_arm_and_nowhere_else():
    int8 = [variant("ov", backend="openvino", precision="int8"), variant("float", backend="openvino")]
    float_only = {"properties": {"LP_TRANSFORMS_MODE": "NO"}}
    as_float = variant("as-float", backend="openvino", precision="int8", options=float_only)
    works = (BackendFact(name="openvino", version="2026.4", works=True),)
    board = Profile(id="any", title="any")
    arm, x86 = (Facts(arch=arch, backends=works) for arch in ("aarch64", "x86_64"))
    said = reasons(*int8, as_float, facts=arm, profile=board)
    assert said == {
        "ov": "openvino's int8 gives wrong answers on ARM CPUs: use int8 of litert or onnxruntime"
    }
    assert reasons(*int8, as_float, facts=x86, profile=board) == {}


def test_an_accelerator_that_is_present_but_unusable_gives_its_own_reason():
    facts = Facts(
        arch="aarch64",
        accelerators=(AcceleratorFact(kind="edgetpu", reason="no permission on /dev/apex_0"),),
        backends=(BackendFact(name="litert", accelerator="edgetpu", works=False, reason="no delegate"),),
    )
    assert (
        "no permission on /dev/apex_0" in reasons(variant("tpu", accelerator="edgetpu"), facts=facts)["tpu"]
    )


def test_the_profiles_order_decides_while_not_everything_is_measured():
    found = select(
        manifest(variant("o", backend="onnxruntime"), variant("f"), variant("i", precision="int8")),
        FACTS,
        PROFILE,
        {"o": 1.0},
    )
    assert [c.variant.id for c in found.candidates] == ["i", "f", "o"]
    assert "order of profile" in found.why


def test_measurement_on_this_device_decides_where_every_fitting_variant_has_one():
    found = select(
        manifest(variant("f"), variant("o", backend="onnxruntime")), FACTS, PROFILE, {"f": 9.0, "o": 1.0}
    )
    assert found.chosen.id == "o"
    assert "measurement on this device" in found.why


def test_the_bundles_costs_for_this_profile_decide_before_the_order():
    slow, fast = (Cost(profile="p", p50_ms=ms, p99_ms=ms) for ms in (9.0, 1.0))
    found = select(
        manifest(variant("f", cost=(slow,)), variant("o", backend="onnxruntime", cost=(fast,))),
        FACTS,
        PROFILE,
    )
    assert found.chosen.id == "o"


def test_an_excluded_variant_is_rejected_with_the_reason_given():
    assert reasons(variant("f"), exclude={"f": "the accelerator was lost"})["f"] == "the accelerator was lost"


def test_a_variant_beyond_its_gate_runs_only_by_name():
    lossy = Quality(metric="top1", value=0.81, reference=0.88, samples=500, beyond_gate=True)
    variants = manifest(variant("i", precision="int8", quality=lossy), variant("f"))
    found = select(variants, FACTS, PROFILE, {"i": 1.0, "f": 9.0})
    assert found.chosen.id == "f"
    assert "top1 0.81 of 0.88 is beyond the gate" in found.rejected[0].reasons[0]
    assert select(variants, FACTS, PROFILE, named="i").chosen.id == "i"
    with pytest.raises(NoVariantError, match="no variant"):
        require(select(manifest(variants.variants[0]), FACTS, PROFILE), variants, "dev")


def test_only_a_mark_that_is_set_stands_in_a_manifest():
    quality = Quality(metric="top1", value=0.87, reference=0.88, samples=500)
    assert b"beyond_gate" not in msgspec.json.encode(quality)  # older devices know no such key


def test_the_final_error_lists_every_reason():
    bundle = manifest(variant("tpu", accelerator="edgetpu"), variant("ov", backend="openvino"))
    with pytest.raises(NoVariantError) as caught:
        require(select(bundle, FACTS, PROFILE), bundle, "dev")
    assert len(caught.value.reasons) == 2


variants = st.builds(
    lambda n, b, a, p: (n, b, a, p),
    st.integers(0, 5),
    st.sampled_from(["litert", "onnxruntime", "openvino"]),
    st.sampled_from(["cpu", "edgetpu"]),
    st.sampled_from(["fp32", "int8", "fp16"]),
)


@given(
    st.lists(variants, min_size=1, max_size=6, unique_by=lambda v: v[0]),
    st.dictionaries(st.sampled_from("012345"), st.floats(0.1, 9)),
)
def test_every_variant_is_either_a_candidate_or_rejected_with_a_reason(rows, measured):
    bundle = manifest(*(variant(str(n), b, a, p) for n, b, a, p in rows))
    found = select(bundle, FACTS, PROFILE, measured)
    names = [c.variant.id for c in found.candidates] + [r.variant for r in found.rejected]
    assert sorted(names) == sorted(v.id for v in bundle.variants)
    assert all(r.reasons for r in found.rejected)
    assert found == select(bundle, FACTS, PROFILE, measured)


@pytest.mark.parametrize(
    ("found", "condition", "holds"),
    [
        ("14.1", ">=14", True),
        ("14", ">=14.0", True),
        ("2.10", ">=2.9, <3", True),
        ("3.0", ">=2.9, <3", False),
        ("", ">=1", False),
        ("1.2", "==1.2", True),
    ],
)
def test_version_conditions(found, condition, holds):
    assert satisfies(found, condition) is holds


@pytest.mark.parametrize(
    ("arch", "features", "why"),
    [
        ("aarch64", (), "ARM"),
        ("aarch64", ("asimddp",), "ARM"),
        ("x86_64", ("avx2",), "saturate"),
        ("x86_64", ("avx2", "avx512_vnni"), ""),
        ("x86_64", ("avx2", "amx_int8"), ""),
        ("x86_64", (), ""),  # a profile without a machine: nothing speaks against it
    ],
)
def test_openvinos_int8_is_left_out_where_it_computes_wrongly(arch, features, why):
    openvino = BackendFact(name="openvino", version="2025.3", works=True)
    facts = Facts(arch=arch, cpu_features=features, backends=(openvino,))
    profile = Profile(id="p", title="P", backend=(ProfileBackend(name="openvino"),))
    said = reasons(
        variant("int8", "openvino", precision="int8"),
        variant("fp32", "openvino"),
        facts=facts,
        profile=profile,
    )
    assert "fp32" not in said
    assert why in said.get("int8", "")
    assert bool(why) == ("int8" in said)
