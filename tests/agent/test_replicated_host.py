"""Replicas in a process of their own: what the command and the agent say of them, and a crash."""

import json

import pytest
from bundles import make_bundle
from test_front import SPARE, _cache, _shared_cache, served  # noqa: F401 - fixtures

from edgekit.agent.serving import ServeOptions, replicas_of, serve
from edgekit.core.errors import ConfigError, NoVariantError, UsageError
from edgekit.serve.address import Address

TPU = {"id": "tpu", "backend": "null", "accelerator": "edgetpu"}


def replicas(server):
    return server.row("motion")["replicas"]


def test_a_native_crash_of_one_ends_the_process_which_starts_again_with_all(tmp_path):
    """Nobody can say which of them it was, so none is excluded."""
    bundle = make_bundle(tmp_path / "m", options={"crash_at": 12}, more_variants=(SPARE,))
    with served(bundle, replicas=["null,spare"]) as server:
        first = server.row("motion")["pid"]

        def crashed():
            try:
                server.infer("motion")
            except Exception:  # noqa: BLE001 - the connection ends with the process
                return True
            return server.row("motion")["pid"] != first

        server.until(crashed, "the crash")
        server.until_answers("motion")
        assert server.row("motion")["restarts"] >= 1
        server.until(lambda: all(row["ready"] for row in replicas(server)), "both replicas")


def start(bundle, *names):
    """Serve a bundle that cannot be served so."""
    address = Address("127.0.0.1", 0)
    serve(ServeOptions(bundles=(str(bundle),), address=address, replicas=names))


def test_a_server_whose_replica_is_not_there_does_not_start(tmp_path):
    bundle = make_bundle(tmp_path / "m", more_variants=(TPU,))
    with pytest.raises(NoVariantError, match="replica 'edgetpu': it cannot run here") as failed:
        start(bundle, "null,edgetpu")
    assert failed.value.hint == "here run: cpu (null)"


def test_a_name_that_the_bundle_has_not_is_an_error_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="has nothing called 'gpu'"):
        start(make_bundle(tmp_path / "m"), "cpu,gpu")


def test_top_shows_a_row_for_each_below_its_model(tmp_path, capsys):
    from edgekit.cli.main import main

    with served(make_bundle(tmp_path / "m", more_variants=(SPARE,)), replicas=["null,spare"]) as server:
        assert main(["top", server.url, "--once"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["model", "motion", "null", "spare"]
        assert main(["top", server.url, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["models"]
        assert [(each["name"].strip(), each["state"]) for each in row["replicas"]] == [
            ("null", "READY"),
            ("spare", "READY"),
        ]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], {}),
        (["a,b"], {"door": ("a", "b"), "gate": ("a", "b")}),
        (["gate=a:0, a:1"], {"gate": ("a:0", "a:1")}),
    ],
)
def test_replicas_are_of_every_model_or_of_one(given, found):
    assert replicas_of(given, ["door", "gate"]) == found


@pytest.mark.parametrize("given", [["yard=a,b"], ["gate=a,b", "gate=a,b"], ["a,b", "gate=a,c"]])
def test_replicas_of_a_model_that_is_not_served_or_twice_are_refused(given):
    with pytest.raises(UsageError, match="--replicas"):
        replicas_of(given, ["door", "gate"])
