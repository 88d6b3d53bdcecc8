"""Which candidates are timed again, longer and against one another."""

from edgekit_optimize.plan import Plan
from edgekit_optimize.run.search import contested
from edgekit_optimize.study import CandidateResult, Timing


def found(name, total_ms, gate="pass"):
    plan = Plan(id=name, technique="", backend=name.partition("-")[0], precision="int8")
    timings = (Timing(profile="intel-x86", p50_ms=total_ms - 1, p99_ms=total_ms, pre_ms=1.0),)
    return CandidateResult(plan=plan, gate=gate, timings=timings if total_ms else ())


def test_candidates_about_as_fast_as_their_runtimes_best_are_finalists():
    results = {
        one.plan.id: one
        for one in (
            found("openvino-qdq", 4.0),
            found("openvino-exact", 4.7),
            found("openvino-float", 14.0),
            found("litert-int8", 5.0),
            found("litert-dynamic", 5.9),
            found("litert-wrong", 2.0, gate="fail"),
            found("onnxruntime-float", 9.0),
            found("onnxruntime-cuda", 0.0),
        )
    }
    names = ["openvino-qdq", "openvino-exact", "litert-int8", "litert-dynamic", "onnxruntime-float"]
    assert contested(results, 1.2) == names


def test_without_times_there_are_no_finalists():
    assert contested({"litert-int8": found("litert-int8", 0.0)}, 1.2) == []
