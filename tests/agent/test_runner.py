"""How a configuration becomes a loop: its model, its sinks, the agent's own link."""

import pytest
from pipeline_fakes import ListSink, make_predictor

from edgekit.agent.worker.runner import make_loop, model_path
from edgekit.core.errors import ConfigError
from edgekit.pipeline.config import parse_config


def test_a_model_is_looked_for_beside_the_file_and_its_lack_is_told(tmp_path):
    (tmp_path / "tiny").mkdir()
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "tiny"\n[source]\nkind = "synthetic"', folder=str(tmp_path)
    )
    assert model_path(config) == tmp_path / "tiny"
    other = parse_config(
        '[pipeline]\nname = "p"\nmodel = "absent"\n[source]\nkind = "synthetic"', folder=str(tmp_path)
    )
    with pytest.raises(ConfigError, match="model 'absent': there is no such bundle"):
        model_path(other)


def test_sinks_are_closed_where_a_later_one_cannot_be_opened(tmp_path):
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\n'
        '[[sink]]\nkind = "jsonl"\npath = "a.jsonl"\n[[sink]]\nkind = "callback"',
        folder=str(tmp_path),
    )
    with pytest.raises(ConfigError, match="callback"):
        make_loop(config, make_predictor())


def test_an_agents_own_link_takes_the_place_of_a_broker_without_a_url(tmp_path):
    config = parse_config(
        '[pipeline]\nname = "p"\nmodel = "m"\n[source]\nkind = "synthetic"\nframes = 3\n'
        '[privacy]\negress = ["counts"]\n[[sink]]\nkind = "mqtt"',
        folder=str(tmp_path),
    )
    sink = ListSink()
    make_loop(config, make_predictor(), sinks=(sink,)).run()
    assert sink.seqs == [0, 1, 2]
