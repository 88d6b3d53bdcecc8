"""Which candidates are planned for which boards."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import ModelError
from edgekit.core.spec import NAME, Profile, ProfileBackend
from edgekit.hardware.profiles import load_profiles
from edgekit_optimize.plan import TECHNIQUES, Plan, Root
from edgekit_optimize.run.rules import RULES, allowed, left_out, mixed, plan_candidates, reference_plan

BOARDS = {profile.id: profile for profile in load_profiles()}
WHOLE = Root(onnx="m.onnx", tflite="m.tflite", openvino="m.xml", inputs=(), outputs=(), image="x")
TASKS = ["classify", "detect", "face", "sensor", "anomaly", "voice", "raw"]


def plans(root=WHOLE, boards=("intel-x86",), *, has_calibration=True, task="classify", exhaustive=False):
    targets = [BOARDS[name] for name in boards]
    return plan_candidates(root, targets, has_calibration=has_calibration, task=task, exhaustive=exhaustive)


def ids(*args, **kwargs):
    return [plan.id for plan in plans(*args, **kwargs)]


def test_every_rule_names_a_technique_that_exists_and_an_id_that_a_bundle_takes():
    for rule in RULES:
        assert rule.technique in TECHNIQUES
        assert NAME.fullmatch(rule.id)
        assert rule.backend == rule.id.split("-")[0]


def test_rule_ids_are_unique_and_a_shared_file_is_that_of_another_rule_made_the_same_way():
    known = {rule.id: rule for rule in RULES}
    assert len(known) == len(RULES)
    for rule in RULES:
        if rule.shares:
            other = known[rule.shares]
            assert not other.shares
            assert (rule.technique, rule.options, rule.form) == (other.technique, other.options, other.form)


def test_every_rule_is_planned_for_some_board_that_ships_with_edgekit():
    found = {plan.id for task in TASKS for plan in plans(boards=BOARDS, task=task, exhaustive=True)}
    assert found == {rule.id for rule in RULES}


@pytest.mark.parametrize("board", BOARDS)
def test_every_plan_is_allowed_on_a_target_or_is_the_reference(board):
    for boards in combinations(sorted({board, "rpi4", "intel-npu"}), 2):
        for plan in plans(boards=boards, exhaustive=True):
            refusals = [allowed(plan, BOARDS[name]) for name in boards]
            assert "" in refusals or plan.id == reference_plan(WHOLE).id


def test_all_boards_together_need_about_24_candidates():
    assert len(ids(boards=BOARDS)) <= 26


def test_the_reference_comes_first_and_is_float():
    for boards in ((), ("rpi4",), ("ncs2",), tuple(BOARDS)):
        first = plans(boards=boards)[0]
        assert (first.id, first.precision) == ("onnxruntime-fp32", "fp32")


@pytest.mark.parametrize(
    ("forms", "wanted"),
    [
        ({"onnx": "a", "tflite": "b"}, "onnxruntime-fp32"),
        ({"tflite": "b", "openvino": "c"}, "litert-fp32"),
        ({"openvino": "c"}, "openvino-fp32"),
    ],
)
def test_the_reference_is_the_canonical_form(forms, wanted):
    assert reference_plan(Root(inputs=(), outputs=(), **forms)).id == wanted


def test_a_model_without_any_form_is_refused_with_the_reasons():
    root = Root(inputs=(), outputs=(), missing={"onnx": "operator Foo has no meaning there"})
    with pytest.raises(ModelError) as caught:
        reference_plan(root)
    assert caught.value.reasons == ("onnx: operator Foo has no meaning there",)


def test_without_calibration_data_nothing_that_needs_ranges_is_planned():
    for plan in plans(boards=BOARDS, has_calibration=False, exhaustive=True):
        assert plan.precision != "int8"


def test_without_an_image_input_no_preprocessing_is_baked_in():
    root = Root(onnx="m.onnx", openvino="m.xml", inputs=(), outputs=())
    assert not [name for name in ids(root, exhaustive=True) if "pixels" in name]
    assert "openvino-int8-pixels" in ids()


def test_forms_that_a_model_could_not_be_converted_to_are_listed_with_the_reason():
    root = Root(onnx="m.onnx", inputs=(), outputs=(), missing={"tflite": "node 'erf' has no layer"})
    (told,) = left_out(root)
    assert "TensorFlow Lite" in told
    assert told.endswith("node 'erf' has no layer")
    assert left_out(WHOLE) == ()


def test_a_root_without_tflite_gives_no_litert_candidate():
    root = Root(onnx="m.onnx", openvino="m.xml", inputs=(), outputs=(), missing={"tflite": "no"})
    assert not [plan for plan in plans(root, tuple(BOARDS)) if plan.backend == "litert"]


@pytest.mark.parametrize(
    ("board", "wanted"),
    [
        ("rpi5-coral-usb", "litert-int8-edgetpu"),
        ("jetson-orin-nano", "onnxruntime-int8-tensorrt"),
        ("jetson-orin-nano", "onnxruntime-fp16-cuda"),
        ("intel-npu", "openvino-int8-npu"),
        ("intel-x86", "openvino-bf16"),
        ("ncs2", "foreign-fp16-myriad"),
        ("rpi4", "litert-int8"),
    ],
)
def test_a_board_gets_the_candidate_for_what_it_has(board, wanted):
    assert wanted in ids(boards=(board,))


def test_a_board_gets_no_candidate_for_an_accelerator_that_it_cannot_have():
    assert not {plan.accelerator for plan in plans(boards=("rpi5",))} - {"cpu"}
    assert "openvino-bf16" not in ids(boards=("rpi5",))
    assert not [name for name in ids(boards=("rpi5", "generic-arm64")) if name.startswith("openvino-int8")]
    assert not [name for name in ids(boards=("coral-dev-board",)) if name.startswith("openvino")]


def test_a_file_is_shared_only_where_its_owner_is_planned():
    by_id = {plan.id: plan for plan in plans()}
    assert by_id["openvino-int8-qdq"].same_as == "onnxruntime-int8"
    board = Profile(id="b", title="b", backend=(ProfileBackend(name="openvino", precisions=("int8",)),))
    alone = plan_candidates(WHOLE, [board], has_calibration=True, task="classify")
    by_id = {plan.id: plan for plan in alone}
    assert by_id["openvino-int8-qdq"].same_as == ""
    assert by_id["openvino-int8-qdq"].technique == "onnx-static"


@given(st.sets(st.sampled_from(sorted(BOARDS))), st.booleans(), st.booleans(), st.sampled_from(TASKS))
def test_more_boards_never_take_a_candidate_away(boards, has_calibration, exhaustive, task):
    options = {"has_calibration": has_calibration, "exhaustive": exhaustive, "task": task}
    some = set(ids(boards=boards, **options))
    assert some <= set(ids(boards=BOARDS, **options))
    assert len(some) == len(ids(boards=boards, **options))
    whole = {plan.id for plan in plans(boards=boards, **options)}
    assert all(not plan.same_as or plan.same_as in whole for plan in plans(boards=boards, **options))


def test_the_refusal_names_what_the_board_lacks():
    plan = Plan(id="p", technique="openvino-float", backend="openvino", precision="bf16")
    assert "runs fp16, fp32 with 'openvino' on 'cpu', not bf16" in allowed(plan, BOARDS["rpi5"])
    assert allowed(plan, BOARDS["intel-x86"]) == ""
    plan = Plan(id="p", technique="litert-edgetpu", backend="litert", accelerator="edgetpu", precision="int8")
    assert allowed(plan, BOARDS["rpi5"]) == "profile 'rpi5' has no 'edgetpu' for backend 'litert'"
    plan = Plan(id="p", technique="myriad", backend="foreign", accelerator="myriad", precision="fp16")
    assert allowed(plan, BOARDS["rpi5"]) == "profile 'rpi5' has no backend 'foreign'"


def test_mixed_plans_are_named_by_how_many_layers_stay_float():
    plan = next(p for p in plans() if p.id == "onnxruntime-int8")
    made = mixed(plan, [("a",), ("a", "b", "c"), ()])
    assert [p.id for p in made] == ["onnxruntime-int8-mixed1", "onnxruntime-int8-mixed3"]
    assert made[1].options == {"keep_float": ["a", "b", "c"]}
    assert plan.options == {}


def test_of_two_sets_of_one_size_the_first_is_taken():
    plan = next(p for p in plans() if p.id == "litert-int8")
    assert [p.options["keep_float"] for p in mixed(plan, [("a",), ("b",)])] == [["a"]]


def test_what_is_not_quantised_layer_by_layer_has_no_mixed_form():
    by_id = {plan.id: plan for plan in plans()}
    for name in ("onnxruntime-fp32", "litert-dynamic-int8"):
        assert mixed(by_id[name], [("a",)]) == ()


def test_the_mixed_form_of_a_shared_file_is_a_file_of_its_own():
    shared = next(plan for plan in plans() if plan.id == "openvino-int8-qdq")
    (made,) = mixed(shared, [("a", "b")])
    assert (shared.same_as, made.same_as) == ("onnxruntime-int8", "")
    assert (made.id, made.backend) == ("openvino-int8-qdq-mixed2", "openvino")
