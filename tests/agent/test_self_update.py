"""The agent's own update, over restarts that are played: real slots, machine and launcher, no processes."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import msgspec
import pytest

from edgekit.agent.config import LimitsTable
from edgekit.agent.launcher import decide
from edgekit.agent.reactor import Reactor
from edgekit.agent.supervisor import self_update
from edgekit.agent.supervisor.self_update import AgentUpdates
from edgekit.base.clock import FlooredClock
from edgekit.core.release import Lock
from edgekit.core.spec import AGENT, Manifest, Variant, VariantFile
from edgekit.core.wire import DesiredModel, ModelState, target_path
from edgekit.update.release import Release, environment_of, fail_launch, read_release, this_base
from edgekit.update.slots import Slots

WHEEL = b"a wheel"
FILE = VariantFile(path="wheels/w.whl", bytes=len(WHEEL), sha256=hashlib.sha256(WHEEL).hexdigest())


class Door:
    """The updates of the model ``door``, whose state a test sets."""

    model = "door"

    def __init__(self):
        self.is_idle, self.rejected, self.active, self.refused, self.reverted = True, {}, "3.1.0", [], []

    def model_state(self):
        return ModelState(active=self.active)

    def refuse(self, desired, reason):
        self.refused.append((desired.version, reason))

    def revert(self, reason):
        self.active = "3.1.0"
        self.reverted.append(reason)


class Board:
    """A device whose agent is started again and again, with whatever its launcher chooses."""

    def __init__(self, folder, monkeypatch):
        self.state, self.records = folder, []
        self.slots, self.door = Slots(folder), Door()
        self.pipelines = {"motor": SimpleNamespace(state="running")}
        self.is_linked = True
        self.desired = SimpleNamespace(models={})
        self.reactor = Reactor()
        monkeypatch.setattr(self_update, "running_release", lambda: self.running)
        self.start()

    def start(self):
        chosen = decide(self.state, this_base())
        version = chosen.version if chosen.version[0].isdigit() and "," not in chosen.version else ""
        self.running = read_release(environment_of(self.state, version)) if version else None
        self.has_ended = False
        parts = SimpleNamespace(
            config=SimpleNamespace(state=self.state, limits=LimitsTable(agent_trial_s=0.05)),
            slots=self.slots,
            reactor=self.reactor,
            clock=FlooredClock(self.state / "c"),
            pool=SimpleNamespace(pipelines=self.pipelines),
            models={"door": self.door},
            fleet=SimpleNamespace(desired=self.desired, link_state=lambda: {"connected": self.is_linked}),
        )
        self.updates = AgentUpdates(parts, self)
        self.updates.resume()

    def release(self, version, **pairs):
        """Direct the device to a release that is published."""
        variant = Variant(
            id="any", backend=AGENT, files=(FILE,), options=msgspec.to_builtins(Lock(pairs=pairs))
        )
        manifest = msgspec.json.encode(
            Manifest(
                format=1, model=AGENT, version=version, task=AGENT, inputs=(), outputs=(), variants=(variant,)
            )
        )
        sha256 = hashlib.sha256(manifest).hexdigest()
        (self.state / "blobs").mkdir(exist_ok=True)
        (self.state / "blobs" / sha256).write_bytes(manifest)
        (self.state / "blobs" / FILE.sha256).write_bytes(WHEEL)
        wanted = DesiredModel(version, target_path(AGENT, version), sha256, len(manifest), soak_s=0)
        self.desired.models = {AGENT: wanted} | {
            name: DesiredModel(v, target_path(name, v), "", 0) for name, v in pairs.items()
        }
        self.updates.want(wanted, is_new=True)

    def until(self, claim):
        for _ in range(400):
            if claim():
                return
            self.updates.tick()
            self.reactor.turn(0.005)
        raise AssertionError((self.events(), self.updates.reported(), self.updates.model_state()))

    def restarts(self):
        self.until(lambda: self.has_ended)
        self.start()

    def ends(self):
        self.until(lambda: self.updates.is_idle)

    def runs(self):
        return self.running.version if self.running else "base"

    def events(self):
        return [record.event for record in self.records]

    # what the agent asks of its owner

    def fetch(self, _model, done):
        done(None)

    def unpack(self, version, sha256, done):
        folder = environment_of(self.state, version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "release.json").write_bytes(msgspec.json.encode(Release(version, sha256, this_base())))
        done(None)

    def restart(self):
        self.has_ended = True

    def announce(self, record):
        self.records.append(record)

    def alert(self, *_):
        pass

    def collect_garbage(self):
        pass

    def changed(self):
        pass


@pytest.fixture
def board(tmp_path, monkeypatch):
    made = Board(tmp_path, monkeypatch)
    yield made
    made.reactor.close()


def test_a_release_is_committed_once_it_does_what_the_agent_before_it_did(board):
    board.release("0.2.0")
    board.restarts()
    assert board.runs() == "0.2.0"
    board.ends()
    assert board.events() == ["WANTED", "FETCHED", "INSTALLED", "COMMITTED"]
    board.release("0.3.0")
    board.restarts()
    board.ends()
    board.start()
    state = board.updates.model_state()
    assert (board.runs(), state.active, state.previous) == ("0.3.0", "0.3.0", "0.2.0")


@pytest.mark.parametrize("lost", ["pipeline", "link"])
def test_a_release_that_does_less_goes_back_and_says_what_it_did_not_do(board, lost):
    board.release("0.2.0")
    board.until(lambda: board.has_ended)
    board.pipelines["motor"].state = "failed" if lost == "pipeline" else "running"
    board.is_linked = lost != "link"
    board.start()
    board.restarts()
    board.ends()
    assert board.runs() == "base"
    wanted = "pipeline motor does not run" if lost == "pipeline" else "there is no link to the fleet"
    assert wanted in board.updates.rejected[f"{AGENT}@0.2.0"]
    assert board.events()[-3:] == ["FAILED", "RESTARTED", "ROLLED_BACK"]


def test_a_release_that_was_ended_or_left_by_its_launcher_is_rejected_with_the_reason(board):
    board.release("0.2.0")
    board.until(lambda: board.has_ended)
    fail_launch(board.state, "0.2.0", "it ended by itself: exit code 9")
    board.start()
    board.ends()
    assert board.runs() == "base"
    assert board.updates.rejected == {f"{AGENT}@0.2.0": "it ended by itself: exit code 9"}
    board.updates.retry("0.2.0")
    board.release("0.2.0")
    board.restarts()
    board.ends()
    assert board.runs() == "0.2.0", "it may be tried again"


def test_a_committed_release_can_be_left_for_the_one_before_it_and_that_for_the_installation(board):
    board.release("0.2.0")
    board.restarts()
    board.ends()
    board.updates.revert("it is worse")
    board.restarts()
    board.ends()
    assert (board.runs(), board.slots.load(AGENT).active) == ("base", None)
    for version in ("0.3.0", "0.4.0"):
        board.release(version)
        board.restarts()
        board.ends()
    board.updates.revert("it is worse")
    board.restarts()
    board.ends()
    assert board.runs() == "0.3.0"
    assert set(board.updates.rejected) == {f"{AGENT}@0.2.0", f"{AGENT}@0.4.0"}


def test_the_installation_that_was_replaced_wins_over_releases_above_the_old_one(board):
    board.release("0.2.0")
    board.restarts()
    board.ends()
    file = environment_of(board.state, "0.2.0") / "release.json"
    old = msgspec.structs.replace(this_base(), agent="0.0.9")
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(read_release(file.parent), base=old)))
    board.start()
    assert board.runs() == "base"
    assert board.slots.load(AGENT).active is None


def door(version="3.2.0"):
    return DesiredModel(version, target_path("door", version), "", 0)


def test_a_model_moves_with_its_release_or_not_at_all(board):
    board.release("0.2.0", door="3.2.0")
    assert not board.updates.lets(board.door, door()), "the old agent does not take it"
    board.restarts()
    assert board.updates.lets(board.door, door())
    assert not board.updates.lets(board.door, door("9.9.9")), "one thing is on trial at a time"
    assert not board.updates.is_idle
    board.door.active = "3.2.0"
    board.ends()
    assert board.events()[-1] == "COMMITTED"
    board.updates.revert("it is worse")
    board.restarts()
    board.ends()
    assert board.runs() == "base"
    assert board.door.active == "3.1.0", "it went back with it"
    assert board.door.reverted == [f"it moves with {AGENT} 0.2.0: it is worse"]
    assert not board.updates.lets(board.door, door())
    assert board.door.refused[0][0] == "3.2.0"


def test_a_release_is_left_when_its_model_is_rejected(board):
    board.release("0.2.0", door="3.2.0")
    board.restarts()
    board.door.rejected["door@3.2.0"] = "too slow"
    board.restarts()
    board.ends()
    assert board.runs() == "base"
    assert "which moves with it, was rejected: too slow" in board.updates.rejected[f"{AGENT}@0.2.0"]


def test_a_release_whose_model_is_not_assigned_is_refused_before_anything_is_unpacked(board):
    board.release("0.2.0", gate="1.0.0")
    board.ends()
    assert "no pipeline here uses that model" in board.updates.rejected[f"{AGENT}@0.2.0"]
    assert not environment_of(board.state, "0.2.0").exists()


def test_a_release_waits_for_the_update_of_a_model_to_end(board):
    board.door.is_idle = False
    board.release("0.2.0")
    for _ in range(20):
        board.reactor.turn(0.005)
    assert not board.has_ended
    board.door.is_idle = True
    board.restarts()
    board.ends()
    assert board.runs() == "0.2.0"


def test_killed_before_it_could_hand_over_it_is_tried_again_later(board, monkeypatch):
    def dies(*_):
        raise SystemExit

    def installs():
        board.release("0.2.0")
        board.until(lambda: board.has_ended)

    with monkeypatch.context() as patch:
        patch.setattr(self_update, "save_launch", dies)
        with pytest.raises(SystemExit):
            installs()
    board.start()
    board.ends()
    assert board.events()[-1] == "POSTPONED"
    board.release("0.2.0")
    board.restarts()
    board.ends()
    assert board.runs() == "0.2.0"
