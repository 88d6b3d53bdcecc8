from __future__ import annotations

from pathlib import Path

import pytest
from bundles import make_bundle, pipeline_toml

from edgekit.agent.config import load_agent_config, managed_models, parse_agent_config, to_toml
from edgekit.agent.model_use import ModelUse
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor.address import LocalAddress
from edgekit.agent.supervisor.served import Served
from edgekit.core.errors import BundleError, ConfigError
from edgekit.pipeline.config import config_problems, load_config, parse_config
from edgekit.serve.address import Address
from edgekit.serve.hosting import Row
from edgekit.serve.ports import Limits
from edgekit.serve.traffic import Traffic


def reasons(text: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_agent_config(text, folder=folder)
    return "\n".join(caught.value.reasons or (caught.value.message,))


def test_a_whole_file_becomes_what_the_supervisor_needs(tmp_path):
    (tmp_path / "door.toml").write_text(pipeline_toml("door", "motion", egress="boxes"))
    make_bundle(tmp_path / "first")
    (tmp_path / "agent.toml").write_text(
        """
        [agent]
        name = "cam-1"
        state = "state"
        [[pipeline]]
        file = "door.toml"
        initial = "first"
        [[pipeline]]
        name = "hall"
        model = "./first"
        source = { kind = "synthetic", fps = 5 }
        sink = [{ kind = "jsonl", path = "out.jsonl" }]
        privacy = { egress = ["counts"] }
        [intervals]
        metrics_s = 5
        """
    )
    config = load_agent_config(tmp_path / "agent.toml")
    door, hall = config.pipelines
    assert config.state == tmp_path / "state"
    assert (door.name, door.first.managed, door.first.pinned, door.egress) == (
        "door",
        "motion",
        None,
        ("boxes",),
    )
    assert door.first.initial == tmp_path / "first"
    assert (hall.name, hall.first.managed, hall.first.pinned) == ("hall", "", tmp_path / "first")
    assert config.intervals.metrics_s == 5
    whole = parse_config(hall.text, hall.what, str(hall.folder))
    assert whole.source.kind == "synthetic"
    assert [sink.kind for sink in whole.sinks] == ["jsonl"]


def test_the_command_lines_state_folder_wins(tmp_path):
    (tmp_path / "p.toml").write_text(pipeline_toml())
    config = parse_agent_config(
        '[agent]\nstate="a"\npipelines=["p.toml"]', folder=tmp_path, state=tmp_path / "b"
    )
    assert config.state == tmp_path / "b"


def test_an_entry_of_the_agents_file_stands_in_the_place_of_the_pipelines_own_model(tmp_path):
    (tmp_path / "p.toml").write_text(pipeline_toml(model="./nowhere"))
    config = parse_agent_config('[[pipeline]]\nfile="p.toml"\nmodel="motion"', folder=tmp_path)
    assert config.pipelines[0].first.managed == "motion"


def test_every_problem_is_told_at_once(tmp_path):
    found = reasons(
        """
        [agent]
        nmae = "x"
        [intervals]
        metrics_s = 0
        [limits]
        crashes = "many"
        """,
        tmp_path,
    )
    assert "agent.nmae: want one of name, pipelines, self_update, state, got an unknown key" in found
    assert "intervals.metrics_s" in found
    assert "limits.crashes" in found


def test_problems_of_several_pipelines_are_told_at_once(tmp_path):
    (tmp_path / "bad.toml").write_text("[pipeline]\nname = 'Bad Name'\nmodel = 'm'")
    found = reasons(
        """
        [[pipeline]]
        file = "absent.toml"
        [[pipeline]]
        file = "bad.toml"
        [[pipeline]]
        name = "both"
        """,
        tmp_path,
    )
    assert "absent.toml: cannot be read" in found
    assert "pipeline.name" in found
    assert "want either 'file' or the pipeline's own tables" in found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "want 1 to 32 pipelines"),
        ("[agent", "not TOML"),
        ('[agent]\nname="a b"\npipelines=["p.toml"]', "agent.name"),
        ('[agent]\npipelines=["p.toml","p.toml"]', "stands twice"),
        ('[[pipeline]]\nfile="p.toml"\nmodel="./gone"', "there is no"),
        ('[[pipeline]]\nfile="p.toml"\nmodel="Not A Name"', "want a bundle's path or a model's name"),
        ('[[pipeline]]\nfile="p.toml"\ninitial="gone"', "want a bundle, there is no"),
        ('[[pipeline]]\nfile="p.toml"\nmodel="./p.toml"\ninitial="p.toml"', "pinned"),
    ],
)
def test_each_mistake_is_named(tmp_path, text, told):
    (tmp_path / "p.toml").write_text(pipeline_toml())
    assert told in reasons(text, tmp_path)


def test_tables_survive_the_way_back_to_text():
    tables = {
        "pipeline": {"name": "x", "model": 'a "quoted" \\ path'},
        "source": {"kind": "synthetic", "fps": 12.5, "realtime": True, "nested": {"a b": [1, 2]}},
        "sink": [{"kind": "jsonl"}, {"kind": "video"}],
    }
    import msgspec

    assert msgspec.toml.decode(to_toml(tables)) == tables


def test_a_plain_name_is_the_bundle_beside_the_pipelines_file(tmp_path):
    """As for ``edgekit run``; with ``initial`` it is the name of a managed model all the same."""
    make_bundle(tmp_path / "motion-1.0.0")
    (tmp_path / "p.toml").write_text(pipeline_toml("p", "motion-1.0.0"))
    (plan,) = parse_agent_config('[agent]\npipelines = ["p.toml"]', folder=tmp_path).pipelines
    assert (plan.first.pinned, plan.first.managed) == (tmp_path / "motion-1.0.0", "")
    text = '[[pipeline]]\nfile = "p.toml"\ninitial = "motion-1.0.0"'
    (plan,) = parse_agent_config(text, folder=tmp_path).pipelines
    assert (plan.first.pinned, plan.first.managed) == (None, "motion-1.0.0")


def test_a_file_that_begins_with_a_mark_is_read(tmp_path):
    make_bundle(tmp_path / "b")
    (tmp_path / "p.toml").write_text("\ufeff" + pipeline_toml("p", "./b"), encoding="utf-8")
    (tmp_path / "agent.toml").write_text('\ufeff[agent]\npipelines = ["p.toml"]', encoding="utf-8")
    config = load_agent_config(tmp_path / "agent.toml", check=config_problems)
    assert [plan.name for plan in config.pipelines] == ["p"]
    assert load_config(tmp_path / "p.toml").pipeline.name == "p"


def test_a_pipelines_worker_is_its_own_or_that_of_the_agents_file_and_by_default_auto(tmp_path):
    (tmp_path / "p.toml").write_text(pipeline_toml("p").replace("[pipeline]", '[pipeline]\nworker = "mine"'))
    (tmp_path / "q.toml").write_text(pipeline_toml("q"))
    text = """
        [[pipeline]]
        file = "p.toml"
        [[pipeline]]
        file = "q.toml"
        worker = "theirs"
        [[pipeline]]
        name = "r"
        model = "motion"
        source = { kind = "synthetic" }
    """
    plans = parse_agent_config(text, folder=tmp_path, check=config_problems).pipelines
    assert [plan.worker for plan in plans] == ["mine", "theirs", "auto"]
    assert "worker: want lower-case letters" in reasons(text.replace("theirs", "No Name"), tmp_path)


def test_how_a_model_is_opened_is_read_as_far_as_it_is_valid(tmp_path):
    more = '[model]\nvariant = "v"\nthreads = 2\n[fallback]\nstandby = "warm"\n[budget]\np95_ms = 20\n'
    (tmp_path / "p.toml").write_text(pipeline_toml("p") + more)
    (tmp_path / "q.toml").write_text(
        pipeline_toml("q") + more.replace('"warm"', '"hot"').replace("= 2\n", '= "two"\n')
    )
    p, q = parse_agent_config('[agent]\npipelines = ["p.toml", "q.toml"]', folder=tmp_path).pipelines
    assert (p.first.variant, p.first.threads, p.fallback.standby, p.budget_ms) == ("v", 2, "warm", 20.0)
    assert (q.first.variant, q.first.threads, q.fallback.standby) == ("v", 0, "none"), (
        "the worker says what is wrong"
    )


def test_one_bundle_is_one_bundle_however_its_path_is_written(tmp_path):
    make_bundle(tmp_path / "b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.toml").write_text(pipeline_toml("p", "../b"))
    (tmp_path / "q.toml").write_text(pipeline_toml("q", "./b"))
    p, q = parse_agent_config('[agent]\npipelines = ["sub/p.toml", "q.toml"]', folder=tmp_path).pipelines
    assert p.first.pinned == q.first.pinned == tmp_path / "b"


STAGES = """
[pipeline]
name = "gate"
[source]
kind = "synthetic"
[[stage]]
name = "people"
model = "blobs"
batch = 6
[[stage]]
name = "tint"
model = "tints"
on = "people"
variant = "small"
[[stage]]
name = "shade"
function = "shades"
on = "people"
[[stage]]
name = "face"
model = "./faces"
on = "people"
threads = 2
"""


def staged(tmp_path, entry, text=STAGES):
    make_bundle(tmp_path / "faces")
    make_bundle(tmp_path / "tints-1")
    (tmp_path / "gate.toml").write_text(text)
    return f'[[pipeline]]\nfile = "gate.toml"\n{entry}'


def test_each_stage_has_a_model_that_is_managed_or_pinned(tmp_path):
    text = staged(tmp_path, 'threads = 3\ninitial = { tints = "tints-1" }')
    (plan,) = parse_agent_config(text, folder=tmp_path, check=config_problems).pipelines
    assert plan.models == (
        ModelUse(managed="blobs", batch=6, threads=3),
        ModelUse(stage="tint", managed="tints", variant="small", threads=3, initial=tmp_path / "tints-1"),
        ModelUse(stage="face", pinned=tmp_path / "faces", threads=2),
    )
    assert managed_models([plan, plan]) == ("blobs", "tints")


@pytest.mark.parametrize(
    ("entry", "old", "new", "told"),
    [
        ("", "./faces", "./gone", "gate.toml:stage[3].model: there is no"),
        ("", '"tints"', '"No Name"', "gate.toml:stage[1].model: want a bundle's path or a model's name"),
        ('initial = { tints = "gone" }', "", "", "initial: want a bundle, there is no"),
        ('initial = { other = "tints-1" }', "", "", "initial: want names of this pipeline's managed models"),
        (
            'model = "./faces"\ninitial = "tints-1"',
            "",
            "",
            (
                "initial: want none, since the model is a pinned path, got 'tints-1'; for 'tints' write"
                " { tints = ... }"
            ),
        ),
        ('updates = "ask"', "", "", "updates: want 'auto', since a sink approves"),
        ("", '"./faces"', '"blobs"', "want the same threads, batch in every stage that has 'blobs'"),
    ],
)
def test_each_mistake_in_a_stages_model_is_named(tmp_path, entry, old, new, told):
    assert told in reasons(staged(tmp_path, entry, STAGES.replace(old, new)), tmp_path)


def serving(text, folder):
    (folder / "p.toml").write_text(pipeline_toml("p"))
    return parse_agent_config(f'[agent]\npipelines = ["p.toml"]\n[serve]\n{text}\n', folder=folder).serve


def test_the_local_api_is_on_loopback_unless_its_table_names_another_address(tmp_path):
    assert serving("", tmp_path).address == Address("127.0.0.1", 8000)
    assert serving('uds = "api.sock"', tmp_path).address == Address("", 8000, tmp_path / "api.sock")
    assert serving("port = 0", tmp_path).address.port == 0
    with pytest.raises(ConfigError, match="serve: tls_cert and tls_key go together"):
        serving('tls_cert = "a.pem"', tmp_path)
    with pytest.raises(ConfigError, match="not valid") as wrong:
        serving("port = 70000\nhostname = 'x'", tmp_path)
    assert len(wrong.value.reasons) == 2


def test_a_page_is_off_unless_asked_for_and_needs_a_token(tmp_path):
    assert not serving("", tmp_path).page
    assert serving('page = true\ntoken_file = "token"', tmp_path).page
    with pytest.raises(ConfigError, match="serve.page: want token_file"):
        serving("page = true", tmp_path)


def test_an_address_that_others_can_reach_needs_a_token(tmp_path):
    reactor = Reactor()
    with pytest.raises(ConfigError, match=r"\[serve\]: host 0.0.0.0 can be reached") as refused:
        LocalAddress(serving('host = "0.0.0.0"', tmp_path), reactor, tmp_path)
    reactor.close()
    assert "token_file" in refused.value.hint


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('name = "none"', "none: no pipeline uses this model, and it names no bundles"),
        ('name = "b"\nbundles = ["two"]', "two is a bundle of 'a'"),
        ('name = "a"\nbundles = ["one"]', "version 1.0.0 is there twice"),
        ('name = "a"\nsplit = { pipelines = 90 }', "the shares of a make 90 percent, not 100"),
        ('name = "a"\nsplit = { pipelines = 50, "9.0.0" = 50 }', "a 9.0.0 is not among the versions"),
        ('name = "a"\nshadow = "9.0.0"', "a 9.0.0 is not among the versions"),
        (
            'name = "a"\nbundles = ["two"]\nsplit = { "2.0.0" = 100 }\nshadow = "2.0.0"',
            "cannot be the shadow",
        ),
        ('name = "a"\n[[serve.model]]\nname = "a"', "a is named twice"),
        ('name = "a"\nreplicas = ["cpu", "null"]', "replicas are of bundles, and it names none"),
    ],
)
def test_what_a_served_model_cannot_be_is_named_before_anything_starts(tmp_path, table, message):
    with pytest.raises(ConfigError, match=message) as refused:
        served(tmp_path, table)
    assert refused.value.exit_code == 3


def served(folder, table):
    make_bundle(folder / "one", model="a")
    make_bundle(folder / "two", model="a", version="2.0.0")
    (folder / "q.toml").write_text(pipeline_toml("q", str(folder / "one")))
    text = f'[agent]\npipelines = ["q.toml"]\n[serve]\n[[serve.model]]\n{table}\n'
    config = parse_agent_config(text, folder=folder)
    return Served(config.serve.models, config.pipelines)


def test_a_bundle_that_is_not_one_fails_as_a_model_does(tmp_path):
    with pytest.raises(BundleError, match="no such bundle") as refused:
        served(tmp_path, 'name = "a"\nbundles = ["absent"]')
    assert refused.value.exit_code == 4


def test_pipelines_stands_for_the_version_that_runs_and_has_all_requests_without_a_split(tmp_path):
    rows = [
        Row(name="a", version=version, state="READY", reason="", should_load=True, pid=1, restarts=0,
            is_answering=True)
        for version in ("1.9.0", "1.10.0")
    ]  # fmt: skip
    shadowed = served(tmp_path, 'name = "a"\nbundles = ["two"]\nshadow = "2.0.0"')
    assert shadowed.traffic([]) == (Traffic("a", {"pipelines": 100}, "2.0.0"),)
    assert shadowed.traffic(rows) == (Traffic("a", {"1.10.0": 100}, "2.0.0"),)
    turned = served(
        tmp_path, 'name = "a"\nbundles = ["two"]\nsplit = { "2.0.0" = 100 }\nshadow = "pipelines"'
    )
    assert turned.traffic(rows) == (Traffic("a", {"2.0.0": 100}, "1.10.0"),)


def test_grpc_needs_a_host_and_the_cache_is_off_by_default(tmp_path):
    reactor = Reactor()
    with pytest.raises(ConfigError, match=r"\[serve\]: grpc_port needs host or port"):
        LocalAddress(serving('grpc_port = 0\nuds = "api.sock"', tmp_path), reactor, tmp_path)
    reactor.close()
    assert serving("", tmp_path).limits == Limits()
    limits = serving("cache_mb = 2\ncache_ttl_s = 5", tmp_path).limits
    assert (limits.cache_bytes, limits.cache_s) == (2 << 20, 5.0)


def test_of_several_models_the_agent_hosts_the_first(tmp_path):
    (tmp_path / "gate.toml").write_text(
        '[pipeline]\nname = "gate"\n[source]\nkind = "synthetic"\n'
        '[[stage]]\nname = "people"\nmodel = "person-detect"\nvariant = "int8"\nthreads = 2\n'
        '[[stage]]\nname = "face"\nmodel = "faces"\non = "people"\n[track]\n'
    )
    text = '[agent]\nstate = "s"\n[[pipeline]]\nfile = "gate.toml"\n'
    text += '[[pipeline]]\nname = "hall"\nsource = { kind = "synthetic" }\ntrack = {}\n'
    text += 'stage = [{ name = "cars", model = "car-detect" }]\n'
    text += 'line = [{ name = "l", points = [[0, 0], [1, 1]] }]\n'
    (tmp_path / "agent.toml").write_text(text)
    config = load_agent_config(tmp_path / "agent.toml", check=config_problems)
    gate, hall = config.pipelines
    assert (gate.first.managed, gate.first.variant, gate.first.threads) == ("person-detect", "int8", 2)
    assert hall.first.managed == "car-detect"
    whole = parse_config(hall.text, hall.what, str(hall.folder))
    assert [line.name for line in whole.lines] == ["l"]
    assert whole.track is not None
