"""Which pipelines share a process and a loaded model."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.config import PipelinePlan
from edgekit.agent.supervisor.grouping import group, model_plan
from edgekit.pipeline.fallback import FallbackTable


def plan(name, **changes):
    return PipelinePlan(name=name, text="", what="p.toml", folder=Path(), **{"managed": "m", **changes})


MODELS = st.sampled_from([{"managed": "a"}, {"managed": "b"}, {"managed": "", "pinned": Path("/x")}])
CHOICES = st.sampled_from([
    {}, {"threads": 2}, {"variant": "v"}, {"fallback": FallbackTable(standby="warm")},
])  # fmt: skip
WORKERS = st.sampled_from(["auto", "auto", "auto", "one", "two"])


@st.composite
def plans(draw):
    number = draw(st.integers(1, 10))
    return [
        plan(f"p{index}", worker=draw(WORKERS), **draw(MODELS), **draw(CHOICES)) for index in range(number)
    ]


EXCLUSIVE = st.dictionaries(
    st.sampled_from([f"p{index}" for index in range(10)]), st.sets(st.sampled_from(["edgetpu", "myriad"]))
)


@given(plans(), EXCLUSIVE, st.sets(st.sampled_from(["p0", "p1"])))
def test_every_pipeline_has_one_worker_and_one_model_that_is_opened_as_it_asks(given_plans, exclusive, alone):
    workers = group(given_plans, exclusive, alone)
    places = [(name, worker, key) for worker in workers.values() for name, key in worker.pipelines.items()]
    assert sorted(name for name, _, _ in places) == sorted(p.name for p in given_plans)
    by_name = {p.name: p for p in given_plans}
    for name, worker, key in places:
        model, own = worker.models[key], by_name[name]
        assert (model.managed, model.pinned) == (own.managed, own.pinned)
        assert (model.variant, model.threads, model.fallback) == (own.variant, own.threads, own.fallback)
    for worker in workers.values():
        assert set(worker.models) == set(worker.pipelines.values()), "no model without a pipeline"


@given(plans(), EXCLUSIVE, st.sets(st.sampled_from(["p0", "p1"])))
def test_two_pipelines_share_a_process_exactly_where_their_names_models_or_accelerators_say_so(
    given_plans, exclusive, alone
):
    workers = group(given_plans, exclusive, alone)
    where = {name: worker.name for worker in workers.values() for name in worker.pipelines}
    key = {p.name: model_plan(p, is_shared=p.name not in alone).key for p in given_plans}

    def are_tied(a, b):
        return key[a.name] == key[b.name] or bool(exclusive.get(a.name, set()) & exclusive.get(b.name, set()))

    for a in given_plans:
        near = {a.name}
        while True:  # whatever is tied to what is tied to it
            more = (
                {
                    b.name
                    for b in given_plans
                    for c in given_plans
                    if c.name in near and b.worker == "auto" and are_tied(b, c)
                }
                - near
                if a.worker == "auto"
                else {b.name for b in given_plans if b.worker == a.worker} - near
            )
            if not more:
                break
            near |= more
        assert {name for name, worker in where.items() if worker == where[a.name]} == near


@given(plans(), EXCLUSIVE, st.randoms())
def test_the_order_of_the_pipelines_changes_no_name_of_a_worker(given_plans, exclusive, chance):
    """A reload must find the workers that run again."""
    other = list(given_plans)
    chance.shuffle(other)
    assert {n: set(w.pipelines) for n, w in group(given_plans, exclusive).items()} == {
        n: set(w.pipelines) for n, w in group(other, exclusive).items()
    }


def test_a_model_is_named_by_itself_and_by_how_it_is_opened_where_that_is_not_as_usual():
    assert model_plan(plan("p")).key == "m"
    assert model_plan(plan("p", threads=2, variant="int8")).key == "m variant=int8 threads=2"
    assert model_plan(plan("p"), is_shared=False).key == "m for p"


def test_four_pipelines_on_one_model_are_one_process_and_a_name_isolates():
    workers = group([plan(f"p{number}") for number in range(4)] + [plan("q", worker="own")])
    assert {name: sorted(w.pipelines) for name, w in workers.items()} == {
        "auto:model m": ["p0", "p1", "p2", "p3"],
        "own": ["q"],
    }
