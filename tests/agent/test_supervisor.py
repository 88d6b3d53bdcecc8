"""The whole supervisor in this process, with real workers and a real client on its socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest
from bundles import make_bundle, pipeline_toml
from provers import Prover

from edgekit.agent.config import Environment, load_agent_config
from edgekit.agent.status import ask, socket_path
from edgekit.agent.supervisor.supervisor import Supervisor
from edgekit.base.clock import FlooredClock
from edgekit.cli.agent import status_text
from edgekit.core.errors import ConfigError, ProtocolError, UsageError
from edgekit.core.wire import Alert, decode_record
from edgekit.model.doctor import facts_with_proofs
from edgekit.sync.outbox import Cursor, Outbox
from edgekit.update.contract import Enrolment

CRASHES = {"crash_at": 3}
INTERVALS = "[intervals]\nprogress_s = 0.1\nmetrics_s = 0.5\n"
LIMITS = "[limits]\ncrashes = 2\nbackoff_s = 0.05\nbackoff_max_s = 0.1\nstop_s = 20\n"


class Stage:
    """A supervisor on the main thread, as a device has it, and a client of its socket on another."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.entries, self.limits = "", LIMITS
        facts_with_proofs(Path("/"), Prover())  # the null backend needs no runtime proved

    def pipeline(self, name, bundle, *, initial=False):
        """Add a pipeline; its model is pinned, or the first version of a managed one."""
        (self.folder / f"{name}.toml").write_text(pipeline_toml(name, fps=50))
        key = "initial" if initial else "model"
        self.entries += f'[[pipeline]]\nfile = "{name}.toml"\n{key} = "{bundle}"\n'

    def run(self, client):
        """Run until the client is done, then end by SIGTERM; return what the client did."""
        if not self.entries:  # a pipeline that waits for its first version, and starts no worker
            (self.folder / "idle.toml").write_text(pipeline_toml("idle"))
            self.entries = '[[pipeline]]\nfile = "idle.toml"\nmodel = "motion"\n'
        (self.folder / "agent.toml").write_text(
            f'[agent]\nstate = "state"\n{self.entries}{INTERVALS}{self.limits}'
        )
        supervisor = Supervisor(load_agent_config(self.folder / "agent.toml"), Environment())
        runs = threading.Event()
        supervisor.reactor.post(runs.set)
        outcome = []

        def work():
            runs.wait()
            try:
                outcome.append(client(self))
            except BaseException as error:  # noqa: BLE001 - raised again on the main thread
                outcome.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=work)
        thread.start()
        supervisor.run()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def status(self):
        return ask(self.state, {"op": "status"})

    def until(self, claim, limit_s=100.0):
        """Ask for the status until it satisfies a claim."""
        deadline_s = time.monotonic() + limit_s
        while not claim(status := self.status()):
            assert time.monotonic() < deadline_s, status
            signal.sigtimedwait([], 0.05)
        return status

    def alerts(self):
        """Read what waits for the fleet, as the next start finds it."""
        outbox = Outbox(self.state / "outbox.sqlite", FlooredClock(self.state / "clock"))
        try:
            batches = [parcel.batch for parcel in outbox.batches(Cursor(0, 0), 10_000)]
        finally:
            outbox.close()
        records = [decode_record(bytes(item)) for batch in batches for item in batch.items]
        return [record for record in records if isinstance(record, Alert)]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def is_running(name, frames=5):
    return lambda status: (
        status["pipelines"][name]["state"] == "running" and status["pipelines"][name]["frames"] >= frames
    )


def pid_of(status, pipeline):
    rows = [row["pid"] for row in status["workers"] if pipeline in [p["name"] for p in row["pipelines"]]]
    return rows[0] if rows else None


def exists(pid):
    return Path(f"/proc/{pid}").exists()


def test_a_worker_that_keeps_crashing_and_a_broken_bundle_end_in_alerts_and_the_others_run_on(stage):
    broken = stage.folder / "broken"
    broken.mkdir()
    (broken / "bundle.json").write_text("{")
    stage.pipeline("good", make_bundle(stage.folder / "good"))
    stage.pipeline("bad", make_bundle(stage.folder / "bad", options=CRASHES))
    stage.pipeline("broken", broken)

    def client(stage):
        for name in ("bad", "broken"):
            stage.until(lambda status, name=name: status["pipelines"][name]["state"] == "failed")
        return stage.until(is_running("good"))

    status = stage.run(client)
    good, bad = status["pipelines"]["good"], status["pipelines"]["bad"]
    assert bad["restarts"] >= 2
    assert "SIGSEGV" in bad["message"]
    assert "bundle.json" in status["pipelines"]["broken"]["message"]
    assert (good["restarts"], good["message"]) == (0, "")
    alerts = stage.alerts()
    (failed,) = (a for a in alerts if (a.code, a.pipeline) == ("agent.pipeline_failed", "bad"))
    assert failed.level == "error"
    assert "SIGSEGV" in failed.message
    assert any(alert.pipeline == "broken" and "bundle.json" in alert.message for alert in alerts)
    assert not any(alert.pipeline == "good" for alert in alerts)


def test_a_bundle_whose_decoder_is_no_longer_installed_fails_at_its_first_start_and_not_at_the_crash_limit(
    stage,
):
    bundle = make_bundle(stage.folder / "plugged")
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["post"]["decoder"] = "nonesuch"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    stage.pipeline("motor", bundle)
    stage.limits = LIMITS.replace("crashes = 2", "crashes = 100")
    status = stage.run(
        lambda stage: stage.until(lambda status: status["pipelines"]["motor"]["state"] == "failed")
    )
    assert "'nonesuch'" in status["pipelines"]["motor"]["message"]
    assert {"agent.pipeline_failed"} < {alert.code for alert in stage.alerts() if alert.pipeline == "motor"}


def test_a_first_version_that_cannot_be_installed_becomes_an_alert_and_its_pipeline_waits(stage):
    bundle = make_bundle(stage.folder / "first")
    (bundle / "labels.txt").write_text("changed\n")
    stage.pipeline("motor", bundle, initial=True)
    stage.pipeline("good", make_bundle(stage.folder / "good"))
    status = stage.run(lambda stage: stage.until(is_running("good")))
    assert status["models"]["motion"]["active"] == ""
    assert "waits for a first version of 'motion'" in status["pipelines"]["motor"]["message"]
    (told,) = [alert for alert in stage.alerts() if alert.pipeline == "motor"]
    assert told.code == "model.bundle"
    assert "labels.txt" in told.message


def test_a_broken_profile_is_told_with_its_file_and_the_agent_answers_on(stage, monkeypatch):
    (stage.folder / "box.toml").write_text("id = ")
    stage.pipeline("motor", make_bundle(stage.folder / "motor"))
    monkeypatch.setenv("EDGEKIT_PROFILES", str(stage.folder))
    status = stage.run(
        lambda stage: stage.until(lambda status: status["pipelines"]["motor"]["state"] == "failed")
    )
    assert status["profile"] == ""
    assert "box.toml" in status["pipelines"]["motor"]["message"]
    told = [alert for alert in stage.alerts() if alert.pipeline == ""]
    assert told[0].code == "config"
    assert "box.toml" in told[0].message


def test_a_pipeline_is_restarted_as_asked_without_a_crash_and_stop_ends_every_child_and_the_socket(stage):
    for name in ("one", "two"):
        stage.pipeline(name, make_bundle(stage.folder / name))

    def client(stage):
        stage.until(is_running("one"))
        before = stage.until(is_running("two"))
        asked = {"op": "switch", "pipeline": "one"}
        assert ask(stage.state, asked | {"to": "off", "reason": "a test"})["message"]
        stage.until(lambda status: status["pipelines"]["one"]["switch"].get("why") == "a test")
        assert not stage.status()["pipelines"]["one"]["switch"]["is_on"]
        assert ask(stage.state, asked | {"to": "on"})["message"]
        for wrong in ({"pipeline": "three", "to": "on"}, {"to": ""}):
            with pytest.raises(UsageError):
                ask(stage.state, asked | wrong)
        answer = ask(stage.state, {"op": "restart", "pipeline": "one"})
        assert answer == {"message": "restarts one"}
        after = stage.until(lambda status: pid_of(status, "one") not in (None, pid_of(before, "one")))
        with pytest.raises(UsageError, match="'three'"):
            ask(stage.state, {"op": "restart", "pipeline": "three"})
        with pytest.raises(UsageError, match="want text"):
            ask(stage.state, {"op": "restart", "pipeline": 3})
        stage.until(is_running("one"))
        return before, after, stage.until(is_running("two"))

    before, after, last = stage.run(client)
    assert pid_of(after, "two") == pid_of(before, "two")
    assert after["pipelines"]["one"]["restarts"] == 0
    pids = [row["pid"] for row in last["workers"]]
    assert len(set(pids)) == 2
    assert not any(map(exists, pids))
    assert not socket_path(stage.state).exists()


def test_a_command_for_the_only_model_asks_for_a_name_where_stages_have_several(stage):
    tables = '[[stage]]\nname = "a"\nmodel = "one"\n[[stage]]\nname = "b"\nmodel = "two"\n'
    text = pipeline_toml("gate").replace('model = "motion"', "") + tables
    (stage.folder / "gate.toml").write_text(text)
    stage.entries = '[[pipeline]]\nfile = "gate.toml"\n'

    def client(stage):
        with pytest.raises(UsageError, match="want a model's name, since there are several") as caught:
            ask(stage.state, {"op": "rollback"})
        return caught.value.hint

    assert stage.run(client) == "this agent manages: one, two"


def test_questions_that_make_no_sense_are_answered_with_their_class(stage):
    def client(stage):
        with pytest.raises(UsageError, match="since_unix_s: want a whole number, got 'now'"):
            ask(stage.state, {"op": "ledger", "since_unix_s": "now"})
        with pytest.raises(UsageError) as caught:
            ask(stage.state, {"op": "rollback", "model": "absent"})
        assert caught.value.hint == "this agent manages: motion"
        with pytest.raises(UsageError, match="there is no managed model 'other'"):
            ask(stage.state, {"op": "retry", "model": "other"})
        with pytest.raises(UsageError, match="motion has no previous version"):
            ask(stage.state, {"op": "rollback"})
        with pytest.raises(ProtocolError, match="got 'sing'"):
            ask(stage.state, {"op": "sing"})
        return ask(stage.state, {"op": "reports"})

    assert stage.run(client) == {"taken": 0}


def test_garbage_on_the_socket_does_not_hurt_the_agent(stage):
    garbage = [b"\n", b"null\n", b"[]\n", b'{"op": {"x": 1}}\n', b"\xff\xfe\n", b"{" * 9000]

    def client(stage):
        folder = os.open(stage.state / "run", os.O_RDONLY)
        pids = []
        for data in garbage:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(60)
                connection.connect(f"/proc/self/fd/{folder}/agent.sock")
                connection.sendall(data)
            pids.append(stage.status()["pid"])
        os.close(folder)
        return pids

    assert stage.run(client) == [os.getpid()] * len(garbage)


def test_the_status_of_a_device_that_is_not_enrolled_says_what_to_do(stage):
    status = stage.run(Stage.status)
    assert status["link"]["connected"] is False
    assert "not enrolled" in status["link"]["problem"]
    assert "edgekit agent enroll" in status["link"]["problem"]
    assert "not connected: this device is not enrolled" in status_text(status)


def enrol(state, broker_url):
    identity = state / "identity"
    identity.mkdir(parents=True)
    enrolment = Enrolment(
        device="dev-1", fleet_url="http://127.0.0.1:1", broker_url=broker_url, root="", desired_keys={},
        metadata_url="http://127.0.0.1:1/m", targets_url="http://127.0.0.1:1/t",
    )  # fmt: skip
    (identity / "enrolment.json").write_bytes(msgspec.json.encode(enrolment))


def test_the_status_says_why_the_link_is_down(stage):
    """Faults 13: ``agent status`` said "not connected" and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    enrol(stage.state, f"mqtt://127.0.0.1:{port}")
    status = stage.run(lambda stage: stage.until(lambda status: status["link"]["connect_failures"] > 0))
    assert (status["enrolled"], status["device"]) == (True, "dev-1")
    assert status["link"]["problem"] == f"127.0.0.1:{port}: Connection refused"
    assert f"not connected: 127.0.0.1:{port}: Connection refused" in status_text(status)


def test_a_link_that_can_never_be_made_says_why_and_the_device_runs(stage):
    enrol(stage.state, "http://h")
    status = stage.run(Stage.status)
    assert "broker" in status["link"]["problem"]


def test_a_damaged_enrolment_is_told_and_not_called_none(stage):
    identity = stage.state / "identity"
    identity.mkdir(parents=True)
    (identity / "enrolment.json").write_text("{")
    status = stage.run(Stage.status)
    assert "enrolment.json" in status["link"]["problem"]


# -- reload by difference


def write(stage, text):
    (stage.folder / "agent.toml").write_text(f'[agent]\nstate = "state"\n{text}{INTERVALS}{stage.limits}')


def test_a_reload_starts_ends_and_changes_what_differs_and_the_rest_loses_no_frame(stage):
    """The source of ``kept`` numbers its frames and is lossless: each one reaches the sink, in order."""
    seen = stage.folder / "seen.jsonl"
    for name in ("gone", "changed", "new"):
        stage.pipeline(name, make_bundle(stage.folder / name))
    (stage.folder / "kept.toml").write_text(
        pipeline_toml("kept", str(make_bundle(stage.folder / "kept", options={"latency_ms": 1}))).replace(
            "realtime = true", ""
        )
        + f'[[sink]]\nkind = "jsonl"\npath = "{seen}"\n'
    )
    kept = '[[pipeline]]\nfile = "kept.toml"\n'
    parts = stage.entries.split("[[pipeline]]")
    gone, changed, new = (f"[[pipeline]]{part}" for part in parts[1:])
    stage.entries = kept + gone + changed

    def client(stage):
        before = [stage.until(is_running(name)) for name in ("kept", "gone", "changed")][-1]
        write(stage, kept + changed + new + "[intervals]\nbroken")
        with pytest.raises(ConfigError, match="TOML"):
            ask(stage.state, {"op": "reload"})
        write(stage, kept + changed + new.replace("model = ", "threads = 1\nmodel = "))
        (stage.folder / "changed.toml").write_text(pipeline_toml("changed", fps=60))
        answer = ask(stage.state, {"op": "reload"})
        assert (answer["started"], answer["ended"], answer["changed"]) == (["new"], ["gone"], ["changed"])
        stage.until(lambda status: "new" in status["pipelines"] and is_running("new")(status))
        after = stage.until(
            lambda status: "gone" not in status["pipelines"] and is_running("changed")(status)
        )
        assert ask(stage.state, {"op": "reload"})["message"] == "nothing differs"
        return before, after, stage.until(is_running("kept", after["pipelines"]["kept"]["frames"] + 20))

    before, after, last = stage.run(client)
    for name in ("kept", "changed"):
        assert pid_of(after, name) == pid_of(before, name), "its model is loaded still"
    assert pid_of(last, "gone") is None
    assert last["pipelines"]["kept"]["restarts"] == last["pipelines"]["kept"]["dropped"] == 0
    numbers = [json.loads(line)["seq"] for line in seen.read_text().splitlines()]
    assert numbers == list(range(len(numbers)))


def users(status):
    """Return who uses each model that is open, by the name of its bundle."""
    return {row["model"]: row["users"] for worker in status["workers"] for row in worker["models"]}


def test_a_pipeline_whose_later_model_has_no_version_yet_waits_and_says_for_which(stage):
    make_bundle(stage.folder / "one", model="one")
    tables = '[[stage]]\nname = "a"\nmodel = "./one"\n[[stage]]\nname = "b"\nmodel = "two"\n'
    (stage.folder / "gate.toml").write_text(pipeline_toml("gate").replace('model = "motion"', "") + tables)
    stage.entries = '[[pipeline]]\nfile = "gate.toml"\n'
    status = stage.run(lambda stage: stage.until(lambda status: users(status) == {"one": ["gate"]}))
    row = status["pipelines"]["gate"]
    assert row["state"] == "starting"
    assert row["message"].startswith("waits for a first version of 'two'")
    assert status["models"]["two"]["active"] == ""


def test_a_reload_changes_a_later_stages_model_and_frees_what_nobody_uses_any_more(stage):
    for name in ("one", "two", "three"):
        make_bundle(stage.folder / name, model=name)
    tables = '[[stage]]\nname = "a"\nmodel = "./one"\n[[stage]]\nname = "b"\nmodel = "./two"\n'
    gate = pipeline_toml("gate", fps=50).replace('model = "motion"', "") + tables
    (stage.folder / "gate.toml").write_text(gate)
    (stage.folder / "other.toml").write_text(pipeline_toml("other", "./two", fps=50))
    other = '[[pipeline]]\nfile = "other.toml"\n'
    stage.entries = '[[pipeline]]\nfile = "gate.toml"\n' + other

    def client(stage):
        stage.until(is_running("gate"))
        before = stage.until(is_running("other"))
        assert len(before["workers"]) == 1
        assert users(before) == {"one": ["gate"], "two": ["gate/b", "other"]}
        (stage.folder / "gate.toml").write_text(gate.replace("./two", "./three"))
        assert ask(stage.state, {"op": "reload"})["changed"] == ["gate"]
        after = {"one": ["gate"], "two": ["other"], "three": ["gate/b"]}
        status = stage.until(lambda status: users(status) == after and is_running("gate")(status))
        stage.until(lambda status: is_running("other")(status) and is_running("gate")(status))
        rows = [(row["name"], row["model"]) for row in status["pipelines"]["gate"]["stages"]]
        assert rows == [("a", "one"), ("b", "three")]
        write(stage, other)
        assert ask(stage.state, {"op": "reload"})["ended"] == ["gate"]
        stage.until(lambda status: users(status) == {"two": ["other"]} and len(status["workers"]) == 1)
        return status

    status = stage.run(client)
    assert status["fallbacks"]["restarts"] == 0


def test_sighup_reloads_and_a_file_that_is_not_valid_changes_nothing_and_is_told(stage):
    stage.pipeline("one", make_bundle(stage.folder / "one"))
    stage.pipeline("two", make_bundle(stage.folder / "two"))
    both, one = stage.entries, "[[pipeline]]" + stage.entries.split("[[pipeline]]")[1]
    stage.entries = one

    def client(stage):
        stage.until(is_running("one"))
        write(stage, both.replace('"two.toml"', '"absent.toml"'))
        os.kill(os.getpid(), signal.SIGHUP)
        stage.until(is_reloading)
        stage.until(lambda status: not is_reloading(status))
        write(stage, both)
        os.kill(os.getpid(), signal.SIGHUP)
        return stage.until(lambda status: "two" in status["pipelines"] and is_running("two")(status))

    status = stage.run(client)
    assert status["pipelines"]["one"]["restarts"] == 0
    assert [alert.code for alert in stage.alerts() if not alert.pipeline] == ["agent.not_reloaded"]


def is_reloading(_):
    """Return whether this process has a child that reloads."""
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):
                if b"reload" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return True
    return False


def test_what_an_agent_reads_only_at_its_start_refuses_a_reload(stage):
    stage.pipeline("one", make_bundle(stage.folder / "one"))

    def client(stage):
        stage.until(is_running("one"))
        write(stage, stage.entries + "[outbox]\nmax_rows = 5\n")
        with pytest.raises(ConfigError, match=r"\[outbox\] differs"):
            ask(stage.state, {"op": "reload"})
        return stage.until(is_running("one"))

    assert stage.run(client)["pipelines"]["one"]["restarts"] == 0
