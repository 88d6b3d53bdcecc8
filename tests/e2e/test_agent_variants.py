"""An agent whose best variant is wrong, crashes or hangs: the next one runs, the version does not fail."""

import pytest
from agent_stage import AgentStage
from bundles import WRONG_OUTPUTS, make_bundle, pipeline_toml

PIPELINE = '[[pipeline]]\nfile = "../motor.toml"\n'
SPARE = {"id": "spare", "backend": "null", "options": {"latency_ms": 4}}
LATE = 600
"""A run that a worker comes to in seconds, and that measuring before the start does not come to."""

pytestmark = [
    pytest.mark.timeout(600),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture
def agent_of(tmp_path):
    agents = []

    def start(limits="", **bundle):
        path = make_bundle(tmp_path / "b", **bundle)
        (tmp_path / "motor.toml").write_text(pipeline_toml(model=str(path), fps=200))
        quick = f"progress_s = 0.2\n[limits]\nbackoff_s = 0.1\ncrashes = 2\n{limits}"
        agents.append(AgentStage(tmp_path / "agent", PIPELINE, quick))
        agents[0].start()
        return agents[0]

    yield start
    for agent in agents:
        agent.kill()


def runs(variant, excluded=()):
    """Return the claim that the pipeline makes frames with a variant while these are excluded."""

    def claim(status):
        row = status["pipelines"]["motor"]
        return (
            row["state"] == "running"
            and row["variant"] == variant
            and row["fps"] > 0
            and set(row["excluded"]) == set(excluded)
        )

    return claim


def test_a_variant_that_gives_wrong_answers_is_left_for_the_next(agent_of):
    wrong = {"id": "fast-and-wrong", "backend": "null", "options": {"outputs": WRONG_OUTPUTS}}
    agent = agent_of(more_variants=(wrong,), first="fast-and-wrong")
    row = agent.until(runs("null"), "the right variant")["pipelines"]["motor"]
    why = next(line for line in row["why"].splitlines() if line.startswith("fast-and-wrong: "))
    assert "does not reproduce 1 of 1 golden samples; golden/0.npz: off by 0.8" in why
    assert row["restarts"] == 0


def test_a_variant_that_kills_its_worker_is_excluded_tried_again_and_excluded_for_longer(agent_of):
    """With two crashes the version would be given up, if another variant were not left."""
    agent = agent_of(options={"crash_at": LATE, "latency_ms": 2}, more_variants=(SPARE,))
    row = agent.until(runs("spare", ["null"]), "the spare variant")["pipelines"]["motor"]
    assert "killed by SIGSEGV" in row["excluded"]["null"]
    assert "null: killed by SIGSEGV" in row["why"]
    agent.until(lambda s: s["pipelines"]["motor"]["variant"] == "null", "its return")
    row = agent.until(runs("spare", ["null"]), "the spare variant again")["pipelines"]["motor"]
    assert row["restarts"] == 2


def test_a_restarted_agent_does_not_begin_with_the_variant_that_crashed(agent_of):
    agent = agent_of(options={"crash_at": LATE, "latency_ms": 2}, more_variants=(SPARE,))
    agent.until(runs("spare", ["null"]), "the spare variant")
    agent.kill()
    agent.start()
    row = agent.until(runs("spare", ["null"]), "the spare variant after the restart")["pipelines"]["motor"]
    assert (row["restarts"], "killed by SIGSEGV" in row["excluded"]["null"]) == (0, True)
    status = agent.until(lambda s: s["pipelines"]["motor"]["variant"] == "null", "its return")
    assert (status["pipelines"]["motor"]["returns"], status["fallbacks"]["returns"]) == (1, 1)


def test_a_variant_that_hangs_is_excluded(agent_of):
    agent = agent_of("hang_s = 2\n", options={"hang_at": LATE, "latency_ms": 2}, more_variants=(SPARE,))
    row = agent.until(runs("spare", ["null"]), "the spare variant")["pipelines"]["motor"]
    assert "finished no frame for 2 s" in row["excluded"]["null"]


def test_where_no_other_variant_is_left_the_version_fails_as_before(agent_of):
    agent = agent_of(options={"crash_at": 5})
    status = agent.until(lambda s: s["pipelines"]["motor"]["state"] == "failed", "its failure")
    assert status["pipelines"]["motor"]["excluded"] == {}
