"""Two models or two pipelines in one process: who is blamed for its end, and who may not share."""

import pytest
from agent_stage import AgentStage
from bundles import make_bundle, pipeline_toml

SPARE = {"id": "spare", "backend": "null", "options": {"latency_ms": 4}}
LATE = 400
"""A run that a worker comes to within seconds."""

pytestmark = [
    pytest.mark.timeout(600),  # a busy machine; each wait has a limit of its own
    pytest.mark.usefixtures("_proved_once"),
]


@pytest.fixture
def agent_of(tmp_path):
    """An agent whose pipelines share one worker, each given as its name and its bundle's options."""
    agents = []

    def start(limits="", **bundles):
        entries = []
        for name, (model, options) in bundles.items():
            if not (tmp_path / model).exists():
                make_bundle(tmp_path / model, model=model, **options)
            text = pipeline_toml(model=str(tmp_path / model), fps=200).replace('"motor"', f'"{name}"')
            named = text.replace("[pipeline]", '[pipeline]\nworker = "w"', 1)
            (tmp_path / f"{name}.toml").write_text(named)
            entries.append(f'[[pipeline]]\nfile = "../{name}.toml"\n')
        quick = f"progress_s = 0.2\n[limits]\nbackoff_s = 0.1\ncrashes = 2\n{limits}"
        agents.append(AgentStage(tmp_path / "agent", "".join(entries), quick))
        agents[0].start()
        return agents[0]

    yield start
    for agent in agents:
        agent.kill()


def run_on(status, **variants):
    rows = status["pipelines"]
    return all(
        rows[name]["state"] == "running" and rows[name]["fps"] > 0 and rows[name]["variant"] == variant
        for name, variant in variants.items()
    )


def test_a_crash_is_blamed_on_the_model_at_work_and_the_other_one_loses_no_variant(agent_of):
    crashing = {"options": {"crash_at": LATE, "latency_ms": 2}, "more_variants": (SPARE,)}
    agent = agent_of(motor=("a", crashing), fan=("b", {"more_variants": (SPARE,)}))
    agent.until(lambda s: run_on(s, motor="null", fan="null"), "both")
    status = agent.until(lambda s: run_on(s, motor="spare", fan="null"), "the spare variant of one")
    assert "killed by SIGSEGV" in status["pipelines"]["motor"]["excluded"]["null"]
    assert status["pipelines"]["fan"]["excluded"] == {}
    assert len({worker["pid"] for worker in status["workers"]}) == 1


def test_a_hang_is_blamed_on_the_model_that_hangs(agent_of):
    hanging = {"options": {"hang_at": LATE, "latency_ms": 2}, "more_variants": (SPARE,)}
    agent = agent_of("hang_s = 2\n", motor=("a", hanging), fan=("b", {"more_variants": (SPARE,)}))
    agent.until(lambda s: run_on(s, motor="null", fan="null"), "both")
    status = agent.until(lambda s: run_on(s, motor="spare", fan="null"), "the spare variant of one")
    assert "finished no frame for 2 s" in status["pipelines"]["motor"]["excluded"]["null"]
    assert status["pipelines"]["fan"]["excluded"] == {}


def test_a_crash_of_a_later_stages_model_is_blamed_on_that_model(tmp_path):
    """The first one is quick, and loses no variant.

    The second takes longer than a frame lasts, so that it is at work at the report before the crash: where
    none is, both are suspected.
    """
    make_bundle(tmp_path / "one", model="one", more_variants=(SPARE,))
    crashing = {"crash_at": LATE, "latency_ms": 8}
    slower = {**SPARE, "options": {"latency_ms": 9}}
    make_bundle(tmp_path / "two", model="two", options=crashing, more_variants=(slower,))
    stages = "".join(f'[[stage]]\nname = "{name}"\nmodel = "./{name}"\n' for name in ("one", "two"))
    text = pipeline_toml(fps=200).replace('model = "motion"', "") + stages
    (tmp_path / "gate.toml").write_text(text)
    quick = "progress_s = 0.2\n[limits]\nbackoff_s = 0.1\ncrashes = 2\n"
    agent = AgentStage(tmp_path / "agent", '[[pipeline]]\nfile = "../gate.toml"\n', quick)
    agent.start()
    try:
        agent.until(lambda s: run_on(s, motor="null"), "the pipeline")
        status = agent.until(
            lambda s: s["fallbacks"]["restarts"] and run_on(s, motor="null"), "the next variant"
        )
    finally:
        agent.kill()
    (worker,) = status["workers"]
    one, two = worker["models"]
    assert (one["model"], one["variant"], one["excluded"]) == ("one", "null", {})
    assert (two["model"], two["variant"]) == ("two", "spare")
    assert "killed by SIGSEGV" in two["excluded"]["null"]


def test_two_pipelines_on_a_model_that_keeps_state_each_get_their_own(agent_of):
    keeps = {"options": {"keeps_state": True}}
    agent = agent_of(motor=("a", keeps), pump=("a", keeps))
    status = agent.until(lambda s: run_on(s, motor="null", pump="null"), "both")
    users = [model["users"] for worker in status["workers"] for model in worker["models"]]
    assert sorted(users) == [["motor"], ["pump"]]
    assert len({worker["pid"] for worker in status["workers"]}) == 1
