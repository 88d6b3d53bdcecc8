"""Which pipelines share a process and a loaded model."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.config import PipelinePlan
from edgekit.agent.model_use import ModelUse
from edgekit.agent.supervisor.grouping import group, model_plans
from edgekit.pipeline.fallback import FallbackTable


def plan(name, *later, **changes):
    use = {key: changes.pop(key) for key in ("managed", "pinned", "variant", "threads") if key in changes}
    models = (ModelUse(**{"managed": "m", **use}), *later)
    return PipelinePlan(name=name, text="", what="p.toml", folder=Path(), models=models, **changes)


MODELS = st.sampled_from([{"managed": "a"}, {"managed": "b"}, {"managed": "", "pinned": Path("/x")}])
CHOICES = st.sampled_from([
    {}, {"threads": 2}, {"variant": "v"}, {"fallback": FallbackTable(standby="warm")},
])  # fmt: skip
WORKERS = st.sampled_from(["auto", "auto", "auto", "one", "two"])


LATER = st.lists(MODELS, max_size=2).map(
    lambda models: [ModelUse(stage=f"s{index}", **model) for index, model in enumerate(models)]
)


@st.composite
def plans(draw):
    number = draw(st.integers(1, 10))
    return [
        plan(f"p{index}", *draw(LATER), worker=draw(WORKERS), **draw(MODELS), **draw(CHOICES))
        for index in range(number)
    ]


EXCLUSIVE = st.dictionaries(
    st.sampled_from([f"p{index}" for index in range(10)]), st.sets(st.sampled_from(["edgetpu", "myriad"]))
)


@given(plans(), EXCLUSIVE, st.sets(st.sampled_from(["p0", "p1"])))
def test_every_pipeline_has_one_worker_and_models_that_are_opened_as_it_asks(given_plans, exclusive, alone):
    workers = group(given_plans, exclusive, alone)
    places = [(name, worker, keys) for worker in workers.values() for name, keys in worker.pipelines.items()]
    assert sorted(name for name, _, _ in places) == sorted(p.name for p in given_plans)
    by_name = {p.name: p for p in given_plans}
    for name, worker, keys in places:
        own = by_name[name]
        assert list(keys) == [use.stage for use in own.models]
        for use in own.models:
            model = worker.models[keys[use.stage]]
            assert (model.managed, model.pinned) == (use.managed, use.pinned)
            assert (model.variant, model.threads, model.fallback) == (use.variant, use.threads, own.fallback)
    for worker in workers.values():
        used = {key for keys in worker.pipelines.values() for key in keys.values()}
        assert set(worker.models) == used, "no model without a pipeline"


@given(plans(), EXCLUSIVE, st.sets(st.sampled_from(["p0", "p1"])))
def test_two_pipelines_share_a_process_exactly_where_their_names_models_or_accelerators_say_so(
    given_plans, exclusive, alone
):
    workers = group(given_plans, exclusive, alone)
    where = {name: worker.name for worker in workers.values() for name in worker.pipelines}
    keys = {
        p.name: {model.key for model in model_plans(p, is_shared=p.name not in alone).values()}
        for p in given_plans
    }

    def are_tied(a, b):
        wanted = exclusive.get(a.name, set()) & exclusive.get(b.name, set())
        return bool(keys[a.name] & keys[b.name] or wanted)

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
    assert model_plans(plan("p"))[""].key == "m"
    assert model_plans(plan("p", threads=2, variant="int8"))[""].key == "m variant=int8 threads=2"
    assert model_plans(plan("p"), is_shared=False)[""].key == "m for p"


def test_four_pipelines_on_one_model_are_one_process_and_a_name_isolates():
    workers = group([plan(f"p{number}") for number in range(4)] + [plan("q", worker="own")])
    assert {name: sorted(w.pipelines) for name, w in workers.items()} == {
        "auto:model m": ["p0", "p1", "p2", "p3"],
        "own": ["q"],
    }


def test_a_stage_shares_the_model_of_another_pipeline_and_ties_their_processes():
    tint = ModelUse(stage="tint", managed="tints", batch=4)
    workers = group([plan("p", tint), plan("q", managed="tints"), plan("r", tint, managed="r")])
    (worker,) = (worker for worker in workers.values() if "p" in worker.pipelines)
    assert worker.pipelines == {
        "p": {"": "m", "tint": "tints batch=4"},
        "r": {"": "r", "tint": "tints batch=4"},
    }
    assert workers["auto:model tints"].pipelines == {"q": {"": "tints"}}


def test_a_pipeline_stays_in_its_worker_when_another_one_of_it_goes_or_changes():
    tint = ModelUse(stage="tint", managed="tints")
    hall = plan("hall", tint, managed="b")
    before = group([plan("gate", tint, managed="a"), hall])
    homes = {name: (each.name, keys) for each in before.values() for name, keys in each.pipelines.items()}
    assert set(before) == set(group([hall], homes=homes)) == {"auto:model a"}
    apart = group([plan("gate", managed="a"), hall], homes=homes)
    assert {name: set(worker.pipelines) for name, worker in apart.items()} == {
        "auto:model a": {"hall"},
        "auto:model a 2": {"gate"},
    }


@given(plans(), plans(), EXCLUSIVE)
def test_after_a_reload_each_pipeline_still_has_one_worker_and_one_that_changes_nothing_moves_none(
    old, new, exclusive
):
    def homes(workers):
        return {n: (each.name, keys) for each in workers.values() for n, keys in each.pipelines.items()}

    workers = group(new, exclusive, homes=homes(group(old, exclusive)))
    assert sorted(homes(workers)) == sorted(each.name for each in new)
    assert group(new, exclusive, homes=homes(workers)) == workers
