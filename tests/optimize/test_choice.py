"""Gates, the Pareto front, and what each board gets."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.spec import Match, Profile, ProfileAccelerator, ProfileBackend
from edgekit.hardware.profiles import load_profiles
from edgekit_optimize.plan import Plan
from edgekit_optimize.run.choice import BY_ORDER, NOISE, ON_BOARD, ON_MACHINE, choose, front, gate, keep
from edgekit_optimize.study import CandidateResult, Score, TargetResult, Timing

BOARDS = {profile.id: profile for profile in load_profiles()}
X86, PI, CORAL, JETSON = (BOARDS[n] for n in ("intel-x86", "rpi5", "rpi5-coral-usb", "jetson-orin-nano"))


def made(
    name,
    ms=None,
    *,
    value=0.88,
    reference=0.88,
    profile="intel-x86",
    megabytes=5.0,
    rss=60.0,
    accelerator="cpu",
    precision=None,
    timings=None,
    error="",
    pre=0.0,
    threads=1,
):
    """Return a candidate named ``backend-precision...`` with one time."""
    backend = name.split("-")[0]
    rest = name.removeprefix(f"{backend}-")
    known = ("dynamic-int8", "int8", "int4", "bf16", "fp16", "fp32")
    precision = precision or next(p for p in known if rest.startswith(p))
    drop = reference - value
    score = Score(
        metric="top1", value=value, reference=reference, samples=500, drop=drop, low=drop, high=drop
    )
    if timings is None and ms is not None:
        timings = (timing(ms, profile, rss=rss, pre=pre, threads=threads),)
    plan = Plan(id=name, technique="t", backend=backend, accelerator=accelerator, precision=precision)
    return CandidateResult(
        plan=plan,
        bytes=int(megabytes * 1e6),
        score=None if error else score,
        timings=timings or (),
        error=error,
    )


def timing(ms, profile="intel-x86", *, rss=60.0, pre=0.0, threads=1):
    return Timing(profile=profile, p50_ms=ms, p95_ms=ms, p99_ms=ms, pre_ms=pre, rss_mb=rss, threads=threads)


def decide(candidates, board=X86, **options):
    return choose(candidates, board, **{"here": "intel-x86", "arch": "x86_64", "max_drop": 0.01} | options)


# --- gate


def test_a_drop_of_exactly_the_allowed_share_passes():
    assert gate(made("litert-int8", value=0.87).score, 0.01)[0] == "pass"
    assert gate(made("litert-int8", value=0.8699).score, 0.01)[0] == "fail"


def test_what_was_not_measured_neither_passes_nor_fails():
    assert gate(None, 0.01) == ("", "its quality was not measured")


def test_a_score_that_is_nan_fails():
    assert gate(made("litert-int8", value=math.nan).score, 1.0)[0] == "fail"


def test_the_verdict_has_the_numbers():
    _, verdict = gate(made("litert-int8", value=0.811, reference=0.878).score, 0.01)
    for part in ("0.8110", "0.8780", "0.0670", "500 samples", "0.01"):
        assert part in verdict


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_gate_that_passes_passes_with_more_allowed_and_with_less_lost(value, better, max_drop, more):
    score = made("litert-int8", value=value, reference=1.0).score
    if gate(score, max_drop)[0] == "pass":
        assert gate(score, max(max_drop, more))[0] == "pass"
        assert gate(made("litert-int8", value=max(value, better), reference=1.0).score, max_drop)[0] == "pass"


# --- front


def test_the_front_leaves_out_candidates_beaten_in_everything():
    best, worse, small = (
        made("litert-int8", 4.7),
        made("openvino-int8", 6.0, rss=120),
        made("litert-int4", 20.0, megabytes=2, value=0.8),
    )
    assert front([best, worse, small]) == {"litert-int8", "litert-int4"}


def test_equal_candidates_are_both_on_the_front():
    assert front([made("litert-int8", 4.0), made("openvino-int8", 4.0)]) == {"litert-int8", "openvino-int8"}


def test_the_front_compares_times_of_one_machine_only():
    ours, theirs = made("litert-int8", 4.0), made("openvino-int8", 1.0, profile="rpi5")
    assert front([ours, theirs, made("litert-fp32", 9.0)]) == {"litert-int8"}


def test_without_times_there_is_no_front():
    assert front([made("litert-int8")]) == frozenset()
    assert front([]) == frozenset()


# --- choice by measurement


def test_the_fastest_within_the_gate_is_chosen_and_the_sentence_has_its_time():
    result = decide(
        [made("litert-fp32", 10.0), made("litert-int8", 4.7), made("openvino-bf16", 2.0, value=0.8)]
    )
    assert (result.chosen, result.basis) == ("litert-int8", ON_BOARD)
    assert "4.70 ms" in result.why
    assert "litert-fp32 with 10.00 ms" in result.why
    assert "0.0800" in result.rejected["openvino-bf16"][0]


def test_time_to_fill_the_input_counts():
    assert decide([made("litert-int8", 4.0, pre=2.0), made("openvino-int8", 5.0)]).chosen == "openvino-int8"


def test_within_noise_the_more_accurate_wins_then_the_smaller():
    fast, exact = made("litert-int8", 100.0), made("openvino-int8", 101.9, value=0.885)
    assert decide([fast, exact]).chosen == "openvino-int8"
    assert "within 2%" in decide([fast, exact]).why
    small = made("openvino-int8", 101.9, megabytes=4.9)
    assert decide([fast, small]).chosen == "openvino-int8"
    large = made("openvino-int8", 101.9, value=0.885, megabytes=5.7)
    assert decide([fast, large]).chosen == "openvino-int8"
    beyond = made("openvino-int8", 102.1, value=0.885)
    assert decide([fast, beyond]).chosen == "litert-int8"


def test_a_compressed_loser_is_rejected_with_both_numbers():
    """Dynamic-range int8 on a depthwise network: smaller, and 2.3 times slower."""
    result = decide([made("litert-fp32", 10.63), made("litert-dynamic-int8", 23.43)])
    assert result.chosen == "litert-fp32"
    assert "23.43 ms" in result.rejected["litert-dynamic-int8"][0]
    assert "litert-fp32: 10.63 ms" in result.rejected["litert-dynamic-int8"][0]


def test_a_slow_compressed_one_is_kept_where_its_float_form_is_over_budget():
    tried = [made("litert-fp32", 10.6, megabytes=18.6), made("litert-dynamic-int8", 23.4, megabytes=5.1)]
    assert decide(tried, budget_mb=6).chosen == "litert-dynamic-int8"


def test_budgets_reject_with_the_numbers():
    tried = [made("litert-fp32", 10.0, megabytes=18.6), made("litert-int8", 4.7)]
    result = decide(tried, budget_ms=8, budget_mb=10)
    assert result.chosen == "litert-int8"
    assert result.rejected["litert-fp32"] == ("18.60 MB, the budget is 10 MB",)
    assert "10.00 ms" in decide(tried, budget_ms=8).rejected["litert-fp32"][0]


def test_nothing_within_the_gate_chooses_nothing_and_says_why_of_each():
    result = decide([made("litert-int8", 4.0, value=0.8), made("litert-fp32", 9.0)], budget_ms=5)
    assert (result.chosen, result.basis, result.order) == ("", "", ())
    assert set(result.rejected) == {"litert-int8", "litert-fp32"}
    assert "litert-int8: top1 0.8000" in result.why


def test_without_any_candidate_the_verdict_says_so():
    assert decide([]).why == "no candidate was made"


def test_what_could_not_be_made_is_rejected_with_its_error():
    result = decide([made("litert-fp32", 9.0), made("onnxruntime-int8", error="node 'a' (Foo) is unknown")])
    assert result.rejected["onnxruntime-int8"] == ("node 'a' (Foo) is unknown",)


def test_a_candidate_without_a_time_is_not_chosen_where_others_have_one():
    result = decide([made("litert-int8", 4.0), made("openvino-int8")])
    assert result.chosen == "litert-int8"
    assert result.rejected["openvino-int8"] == ("not measured on this board",)
    assert result.order == ("litert-int8", "openvino-int8")


def test_a_time_that_is_nan_does_not_count():
    assert decide([made("litert-int8", math.nan), made("litert-fp32", 9.0)]).chosen == "litert-fp32"


def test_times_of_one_number_of_threads_are_compared():
    tried = [
        made("litert-int8", timings=(timing(4.0), timing(3.9, threads=2))),
        made("openvino-int8", timings=(timing(5.0), timing(2.0, threads=2))),
    ]
    assert decide(tried).chosen == "litert-int8"
    assert decide(tried, threads=2).chosen == "openvino-int8"


def test_the_last_time_measured_counts():
    tried = [made("litert-int8", timings=(timing(1.0), timing(9.0))), made("openvino-int8", 5.0)]
    assert decide(tried).chosen == "openvino-int8"


# --- choice for another machine


def test_times_measured_on_the_board_count_more_than_times_measured_here():
    tried = [
        made("litert-int8", timings=(timing(4.0), timing(50.0, "rpi5"))),
        made("onnxruntime-int8", timings=(timing(9.0), timing(20.0, "rpi5"))),
    ]
    result = decide(tried, PI)
    assert (result.chosen, result.basis) == ("onnxruntime-int8", ON_BOARD)


def test_a_board_of_the_same_architecture_takes_the_fastest_here_and_says_so():
    result = decide([made("litert-int8", 9.0), made("openvino-int8", 5.0)], BOARDS["generic-x86_64"])
    assert (result.chosen, result.basis) == ("openvino-int8", ON_MACHINE)
    assert "'intel-x86'" in result.why


def test_a_board_of_another_architecture_takes_int8_by_the_order_of_its_profile():
    tried = [made("openvino-int8", 1.0), made("onnxruntime-int8", 1.0), made("litert-fp32", 0.5)]
    result = decide(tried, PI)
    assert (result.chosen, result.basis) == ("onnxruntime-int8", BY_ORDER)
    assert "not measured" in result.why
    assert result.order == ("onnxruntime-int8", "litert-fp32")
    assert "int8" in " ".join(result.rejected["openvino-int8"])  # wrong answers on ARM


def test_times_measured_here_break_ties_within_a_backend():
    tried = [made("onnxruntime-int8", 5.0), made("onnxruntime-int8-exact", 4.0), made("openvino-fp32", 1.0)]
    assert decide(tried, PI).order == ("onnxruntime-int8-exact", "onnxruntime-int8", "openvino-fp32")


def test_a_board_with_an_accelerator_takes_the_file_for_it():
    edge = made("litert-int8-edgetpu", accelerator="edgetpu")
    result = decide([made("litert-int8", 4.0), edge], CORAL)
    assert (result.chosen, result.basis) == ("litert-int8-edgetpu", BY_ORDER)
    assert "edgetpu" in result.why
    beyond = made("litert-int8-edgetpu", accelerator="edgetpu", value=0.5)
    assert decide([made("litert-int8", 4.0), beyond], CORAL).chosen == "litert-int8"


def test_a_boards_accelerator_goes_before_what_was_measured_on_a_like_processor():
    chip = made("openvino-int8-npu", accelerator="npu")
    result = decide([made("litert-int8", 4.0), chip], BOARDS["intel-npu"])
    assert (result.chosen, result.basis) == ("openvino-int8-npu", BY_ORDER)
    assert result.order == ("openvino-int8-npu", "litert-int8")


def test_an_accelerator_that_a_board_only_may_have_is_left_out():
    """A Jetson has a GPU; a Coral stick in its port is the user's business."""
    edge = made("litert-int8-edgetpu", accelerator="edgetpu")
    engine = made("onnxruntime-int8-tensorrt", accelerator="tensorrt")
    half = made("onnxruntime-fp16-cuda", accelerator="cuda")
    result = decide([edge, half, engine, made("litert-int8", 4.0)], JETSON)
    assert result.order == (
        "onnxruntime-int8-tensorrt",
        "onnxruntime-fp16-cuda",
        "litert-int8",
    )
    assert "may have the accelerator edgetpu" in result.rejected["litert-int8-edgetpu"][0]
    assert decide([edge], JETSON).chosen == "litert-int8-edgetpu"


def test_a_board_without_measurement_says_that_the_time_budget_is_not_checked():
    result = decide([made("litert-int8", 4.0)], PI, budget_ms=1)
    assert result.chosen == "litert-int8"
    assert "budget of 1 ms is not checked" in result.why


def test_what_the_profile_does_not_list_is_refused():
    result = decide([made("openvino-bf16", 1.0), made("litert-fp32", 9.0)], PI)
    assert result.chosen == "litert-fp32"
    assert "bf16" in result.rejected["openvino-bf16"][0]


# --- what must always hold

_CANDIDATES = st.lists(
    st.builds(
        made,
        st.sampled_from(
            [
                "litert-int8",
                "litert-fp32",
                "litert-dynamic-int8",
                "onnxruntime-int8",
                "onnxruntime-fp32",
                "openvino-int8",
                "openvino-bf16",
                "openvino-fp32",
            ]
        ),
        st.one_of(st.none(), st.floats(0.1, 50), st.sampled_from([5.0, 5.05])),
        value=st.sampled_from([0.7, 0.87, 0.875, 0.88, 0.89]),
        megabytes=st.sampled_from([5.0, 5.1, 18.6]),
        rss=st.sampled_from([58.0, 129.0]),
        profile=st.sampled_from(["intel-x86", "intel-x86", "rpi5"]),
        error=st.sampled_from(["", "", "", "broken"]),
    ),
    max_size=8,
    unique_by=lambda candidate: candidate.plan.id,
)
_BUDGET = st.sampled_from([0.0, 4.0, 6.0, 20.0])


@settings(max_examples=50)
@given(_CANDIDATES, st.sampled_from(sorted(BOARDS)), _BUDGET, _BUDGET)
def test_the_chosen_one_holds_gate_and_budgets_and_everything_else_has_a_reason(tried, board, ms, mb):
    result = decide(tried, BOARDS[board], budget_ms=ms, budget_mb=mb)
    by_id = {candidate.plan.id: candidate for candidate in tried}
    assert set(by_id) == set(result.order) | set(result.rejected)
    assert result.why
    assert result.chosen == (result.order[0] if result.order else "")
    for name in result.order:
        candidate = by_id[name]
        assert not candidate.error
        assert gate(candidate.score, 0.01)[0] == "pass"
        assert not mb or candidate.bytes <= mb * 1e6
        assert not ms or all(t.total_ms <= ms for t in candidate.timings if t.profile == board)


@settings(max_examples=50)
@given(_CANDIDATES)
def test_the_chosen_one_is_on_the_front_of_what_fits_and_near_the_fastest(tried):
    result = decide(tried)
    by_id = {candidate.plan.id: candidate for candidate in tried}
    fits = [by_id[name] for name in result.order if by_id[name].timings]
    fits = [candidate for candidate in fits if candidate.timings[0].profile == "intel-x86"]
    if result.basis == ON_BOARD:
        assert result.chosen in front(fits)
        fastest = min(candidate.timings[0].total_ms for candidate in fits)
        assert by_id[result.chosen].timings[0].total_ms <= fastest * (1 + NOISE)


@settings(max_examples=50)
@given(_CANDIDATES, st.permutations(range(8)), st.sampled_from(sorted(BOARDS)))
def test_the_choice_is_as_good_in_any_order_of_the_candidates(tried, order, board):
    shuffled = [tried[place] for place in order if place < len(tried)]
    one, other = decide(tried, BOARDS[board]), decide(shuffled, BOARDS[board])
    by_id = {candidate.plan.id: candidate for candidate in tried}

    def worth(name):
        candidate = by_id.get(name)
        return candidate and (
            candidate.score,
            candidate.bytes,
            [(t.total_ms, t.rss_mb) for t in candidate.timings],
        )

    assert worth(one.chosen) == worth(other.chosen)


@settings(max_examples=50)
@given(_CANDIDATES)
def test_no_member_of_the_front_is_beaten_and_everything_else_is(tried):
    names = front(tried)
    timed = {c.plan.id: c for c in tried if c.timings and c.score and not c.error}
    profiles = {c.timings[0].profile for c in timed.values()}
    if len(profiles) != 1:
        return

    def beats(one, other):
        pairs = [
            (-one.score.value, -other.score.value),
            (one.timings[0].total_ms, other.timings[0].total_ms),
            (one.bytes, other.bytes),
            (one.timings[0].rss_mb, other.timings[0].rss_mb),
        ]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    for name, candidate in timed.items():
        assert (name in names) == (not any(beats(other, candidate) for other in timed.values()))


# --- what goes into the bundle


def test_the_best_of_each_backend_is_kept_for_devices_that_lack_the_first():
    tried = [
        made("litert-int8", 4.0),
        made("litert-fp32", 9.0),
        made("openvino-int8", 5.0),
        made("onnxruntime-fp32", 9.5),
        made("openvino-bf16", 1.0, value=0.5),
    ]
    assert keep(tried, [decide(tried)], keep_all=False) == {
        "litert-int8",
        "openvino-int8",
        "onnxruntime-fp32",
    }


def test_keep_all_keeps_everything_that_could_be_made():
    tried = [made("litert-int8", 4.0, value=0.1), made("litert-fp32", 9.0), made("openvino-int8", error="no")]
    assert keep(tried, [decide(tried)], keep_all=True) == {"litert-int8", "litert-fp32"}


def test_a_target_with_nothing_keeps_nothing():
    assert keep([], [TargetResult(profile="p", title="P")], keep_all=False) == frozenset()


@settings(max_examples=50)
@given(_CANDIDATES, st.sets(st.sampled_from(sorted(BOARDS)), max_size=4))
def test_the_bundle_has_every_chosen_candidate_and_none_beyond_the_gate(tried, boards):
    targets = [decide(tried, BOARDS[name]) for name in sorted(boards)]
    kept = keep(tried, targets, keep_all=False)
    by_id = {candidate.plan.id: candidate for candidate in tried}
    assert {target.chosen for target in targets if target.chosen} <= kept
    assert all(gate(by_id[name].score, 0.01)[0] == "pass" for name in kept)


@pytest.mark.parametrize("arch", ["", "x86_64"])
def test_a_profile_without_an_architecture_is_like_any_machine(arch):
    backends = (ProfileBackend(name="litert"), ProfileBackend(name="openvino"))
    board = Profile(id="b", title="B", backend=backends)
    tried = [made("litert-int8", 9.0), made("openvino-int8", 5.0)]
    assert decide(tried, board, arch=arch).basis == ON_MACHINE
    board = msgspec.structs.replace(board, match=Match(arch=("riscv64",)))
    assert decide(tried, board, arch="x86_64").basis == BY_ORDER
    stick = msgspec.structs.replace(board, accelerator=(ProfileAccelerator(kind="edgetpu"),))
    assert decide(tried, stick, arch="x86_64").chosen == "litert-int8"
