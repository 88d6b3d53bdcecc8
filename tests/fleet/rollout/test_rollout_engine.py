"""Rollouts over a real store, with devices that follow a script."""

import contextlib
import itertools

import pytest
from rollout_parts import MODEL, Retained, Site

from edgekit.core import wire
from edgekit.core.errors import UsageError
from edgekit.core.spec import BackendFact, Facts, Variant
from edgekit_fleet.rollout.desired import AT_ONCE
from edgekit_fleet.rollout.machine import Event, State
from edgekit_fleet.rollout.plan import make_spec

FIVE = ("cam-1", "cam-2", "cam-3", "cam-4", "cam-5")


@pytest.fixture
def site(tmp_path):
    with contextlib.closing(Site(tmp_path)) as made:
        yield made


def told(site, version="2.0.0"):
    return {name for name, wish in site.wishes().items() if wish == version}


def run_wave(site, seen):
    """Have every device that was newly told commit; return who they are."""
    new = told(site) - seen
    for name in new:
        site.devices_by_id[name].commits()
    site.tick()
    return new


def test_a_good_rollout_goes_wave_by_wave_to_done(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    sizes, seen = [], set()
    for _ in range(3):
        new = run_wave(site, seen)
        sizes.append(len(new))
        seen |= new
        site.tick(9.9)
        assert told(site) == seen, "the soak is not over"
        site.tick(0.2)
    assert sizes == [1, 2, 2]
    assert site.rollout(rollout).state is State.DONE
    assert told(site) == set(FIVE)


def test_a_canary_that_fails_halts_the_rollout_and_its_wish_goes_back(site):
    first = site.add(*FIVE).create("1.0.0", waves=["100%"])
    site.tick()
    site.tick(11)
    assert site.rollout(first).state is State.DONE
    rollout = site.create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].fails()
    site.tick()
    assert site.rollout(rollout).state is State.HALTED
    assert canary in site.rollout(rollout).reason
    assert "golden sample 0" in site.rollout(rollout).reason
    assert set(site.wishes().values()) == {"1.0.0"}
    assert site.devices_by_id[canary].wanted().rollout == first.id


def test_a_device_that_was_never_told_a_version_is_sent_back_to_what_it_ran(site):
    site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].fails()
    site.tick()
    assert site.wishes()[canary] == "1.0.0"
    assert site.commands == []


def test_a_device_whose_version_before_was_never_published_is_commanded_to_go_back(tmp_path):
    with contextlib.closing(Site(tmp_path, "2.0.0")) as site:
        rollout = site.add(*FIVE).create()
        site.tick()
        (canary,) = run_wave(site, set())
        site.engine.move(rollout.id, Event.ABORT)
        site.tick()
        assert site.wishes()[canary] is None
        assert site.commands == [(canary, MODEL)]


def test_devices_of_later_waves_are_never_told_after_a_halt(site):
    site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].fails()
    for _ in range(20):
        site.tick(10)
    assert told(site) == set()
    assert set(site.downlink.sent) == {canary}


def test_a_version_that_errs_on_updated_devices_halts_though_they_committed(site):
    site.add(*FIVE)
    for device in site.devices_by_id.values():
        device.measures("1.0.0", reports=3)
    rollout = site.create(soak_s=60)
    site.tick(1)
    (canary,) = run_wave(site, set())
    site.devices_by_id[canary].measures("2.0.0", frames=100, errors=20, reports=2)
    site.tick(1)
    assert site.rollout(rollout).state is State.HALTED
    assert f"40 of 200 frames failed on {canary}" in site.rollout(rollout).reason
    assert site.wishes()[canary] == "1.0.0"


def test_a_version_that_is_slower_on_the_same_device_halts(site):
    site.add(*FIVE)
    for device in site.devices_by_id.values():
        device.measures("1.0.0", ms=10, reports=4)
    rollout = site.create(soak_s=60)
    site.tick(1)
    (canary,) = run_wave(site, set())
    site.devices_by_id[canary].measures("2.0.0", ms=12, reports=3)
    site.tick(1)
    assert site.rollout(rollout).state is State.RUNNING
    site.devices_by_id[canary].measures("2.0.0", ms=25, reports=2)
    site.tick(1)
    assert site.rollout(rollout).state is State.HALTED
    assert "p99" in site.rollout(rollout).reason


def test_a_version_slower_by_less_than_a_millisecond_does_not_halt(site):
    """Four times 0.1 ms is nothing where a frame is due each 50 ms."""
    site.add(*FIVE)
    for device in site.devices_by_id.values():
        device.measures("1.0.0", ms=0.1, reports=4)
    rollout = site.create(soak_s=60)
    site.tick(1)
    (canary,) = run_wave(site, set())
    site.devices_by_id[canary].measures("2.0.0", ms=0.4, reports=4)
    site.tick(1)
    assert site.rollout(rollout).state is State.RUNNING


def test_a_device_that_erred_before_does_not_condemn_the_new_version(site):
    site.add(*FIVE)
    for device in site.devices_by_id.values():
        device.measures("1.0.0", frames=100, errors=30, reports=4)
    rollout = site.create(soak_s=60)
    site.tick(1)
    (canary,) = run_wave(site, set())
    site.devices_by_id[canary].measures("2.0.0", frames=100, errors=30, reports=4)
    site.tick(1)
    assert site.rollout(rollout).state is State.RUNNING


def test_a_trial_that_a_power_cut_ended_is_waited_for(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].say("POSTPONED", reason="the agent was restarted")
    site.tick(600)
    assert site.rollout(rollout).state is State.RUNNING
    site.devices_by_id[canary].commits()
    site.tick()
    assert site.participants(rollout)[canary].outcome.value == "committed"


def test_a_rollback_that_only_the_records_tell_is_a_failure(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].say("FAILED", reason="the worker crashed", state="ROLLING_BACK")
    site.tick()
    assert site.rollout(rollout).state is State.RUNNING
    site.devices_by_id[canary].say("ROLLED_BACK")
    site.tick()
    assert site.rollout(rollout).state is State.HALTED
    assert "the worker crashed" in site.rollout(rollout).reason


def test_a_rejection_that_only_the_reported_state_tells_is_a_failure(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].rejected = {f"{MODEL}@2.0.0": "too slow"}
    site.devices_by_id[canary].report()
    site.tick()
    assert site.rollout(rollout).state is State.HALTED


def test_going_back_after_the_commit_halts(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    (canary,) = run_wave(site, set())
    site.devices_by_id[canary].say("ROLLED_BACK", reason="commanded")
    site.tick()
    assert site.rollout(rollout).state is State.HALTED


def test_a_device_that_rejected_the_version_before_fails_at_once(site):
    site.add(*FIVE)
    for device in site.devices_by_id.values():
        device.rejected = {f"{MODEL}@2.0.0": "too slow"}
        device.report()
    rollout = site.create()
    site.tick()
    assert site.rollout(rollout).state is State.HALTED
    assert told(site) == set()


def test_failures_up_to_the_number_allowed_are_passed_over(site):
    rollout = site.add(*FIVE).create(waves=["2", "100%"], max_failures=1, soak_s=0)
    site.tick()
    good, bad = sorted(told(site))
    site.devices_by_id[good].commits()
    site.devices_by_id[bad].fails()
    site.tick(1)
    assert site.rollout(rollout).wave == 1
    other = min(told(site) - {good, bad})
    site.devices_by_id[other].fails()
    site.tick(1)
    assert site.rollout(rollout).state is State.HALTED
    assert told(site) == set()


def test_allowed_failures_alone_do_not_let_a_wave_pass(site):
    rollout = site.add(*FIVE).create(max_failures=3)
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].fails()
    site.tick(1)
    assert site.rollout(rollout).state is State.HALTED


def test_devices_that_are_offline_pause_the_rollout_after_the_waves_time(site):
    site.add("on-1").add("off-1", "off-2", online=False)
    rollout = site.create(waves=["1", "100%"], wave_timeout_s=100)
    site.tick()
    assert told(site) == {"on-1"}, "the canary is one that is online"
    run_wave(site, set())
    site.tick(11)
    assert told(site) == {"on-1", "off-1", "off-2"}
    site.tick(101)
    found = site.rollout(rollout)
    assert found.state is State.PAUSED
    assert "off-1 (offline), off-2 (offline)" in found.reason
    site.engine.move(rollout.id, Event.RESUME)
    site.tick(50)
    assert site.rollout(rollout).state is State.RUNNING
    for name in ("off-1", "off-2"):
        site.devices_by_id[name].commits()
    site.tick()
    site.tick(11)
    assert site.rollout(rollout).state is State.DONE


def test_a_share_of_a_wave_suffices_where_the_rollout_says_so(site):
    site.add(*FIVE[:2]).add(*FIVE[2:3], online=False)
    rollout = site.create(waves=["100%"], success_ratio=0.6)
    site.tick()
    for name in FIVE[:2]:
        site.devices_by_id[name].commits()
    site.tick()
    site.tick(11)
    assert site.rollout(rollout).state is State.DONE
    assert site.wishes()[FIVE[2]] == "2.0.0", "it will take it when it comes back"


def test_a_paused_rollout_tells_nobody_but_still_halts(site):
    rollout = site.add(*FIVE).create(soak_s=0)
    site.tick()
    canary = run_wave(site, set())
    site.engine.move(rollout.id, Event.PAUSE, "lunch")
    before = told(site)
    site.tick(100)
    assert told(site) == before
    site.devices_by_id[next(iter(canary))].say("ROLLED_BACK", reason="too hot")
    site.tick()
    assert site.rollout(rollout).state is State.HALTED


def test_abort_brings_every_device_back(site):
    rollout = site.add(*FIVE).create(soak_s=0)
    site.tick()
    seen = run_wave(site, set())
    site.tick(1)
    seen |= run_wave(site, seen)
    assert len(told(site)) >= 3
    site.engine.move(rollout.id, Event.ABORT, "second thoughts")
    site.tick()
    assert told(site) == set()
    assert {site.wishes()[name] for name in seen} == {"1.0.0"}
    with pytest.raises(UsageError, match="aborted cannot resume"):
        site.engine.move(rollout.id, Event.RESUME)


def test_after_an_abort_a_device_without_a_result_is_restored_and_no_longer_waiting(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    (canary,) = told(site)
    site.devices_by_id[canary].say("INSTALLED", state="TRIAL")
    site.tick()
    site.engine.move(rollout.id, Event.ABORT)
    site.tick()
    standing = site.participants(rollout)[canary].standing
    assert (standing.outcome.value, standing.step) == ("restored", "")
    assert standing.reason == "the rollout was aborted before it had a result"


def test_a_rollout_of_what_every_device_runs_already_is_refused(site):
    rollout = site.add(*FIVE).create(waves=["100%"], soak_s=0)
    site.tick()
    run_wave(site, set())
    site.tick(1)
    assert site.rollout(rollout).state is State.DONE
    with pytest.raises(UsageError, match="every device runs motion 2.0.0 already"):
        site.create()
    site.add("cam-6")
    assert site.create().state is State.RUNNING, "one device does not"


def test_a_version_that_no_device_can_run_is_refused_with_each_devices_reason(site):
    site.add(*FIVE)
    variant = Variant(id="fp16", backend="onnxruntime", accelerator="cuda", precision="fp16", files=())
    site.bundles.variants = (variant,)
    facts = Facts(arch="aarch64", memory_mb=8000)
    proved = (BackendFact(name="onnxruntime", accelerator="cpu", works=True),)
    for device in site.devices_by_id:
        birth = wire.Birth(online=True, boot="b1", conn=2, hardware=facts, backends=proved)
        site.devices.take_birth(device, birth, site.now_ms)
    with pytest.raises(UsageError, match="runs on none of its 5 devices") as refused:
        site.create()
    assert "cam-1: fp16: " in refused.value.reasons[0]
    site.add("cam-6")
    assert site.create().state is State.RUNNING, "of one device the fleet knows nothing"


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
def test_restarted_in_each_state_a_rollout_goes_on_as_if_nothing_had_happened(site, state):
    site.add(*FIVE)
    spec = make_spec({"model": MODEL, "version": "2.0.0", "waves": ["2", "100%"], "soak_s": 0})
    rollout = site.engine.create(spec, is_draft=state is State.DRAFT)
    site.tick()
    if state in {State.PAUSED, State.ABORTED}:
        site.engine.move(rollout.id, Event.PAUSE if state is State.PAUSED else Event.ABORT)
    elif state is State.HALTED:
        site.devices_by_id[min(told(site))].fails()
    elif state is State.DONE:
        seen = run_wave(site, set())
        site.tick(1)
        run_wave(site, seen)
        site.tick(1)
    site.restart()
    site.tick()
    expected = {State.DRAFT: 0, State.RUNNING: 2, State.PAUSED: 2, State.DONE: 5}
    assert site.rollout(rollout).state is state
    assert len(told(site)) == expected.get(state, 0)


def test_a_board_that_vanishes_pauses_its_wave_by_name_and_is_left_out_once_revoked(site):
    rollout = site.add("cam-1", "cam-2").create(waves=["100%"], soak_s=0, wave_timeout_s=60)
    site.tick()
    site.devices_by_id["cam-1"].commits()
    gone = wire.Birth(online=False, boot="b1", conn=1)
    site.devices.take_birth("cam-2", gone, site.now_ms)
    site.tick(61)
    paused = site.rollout(rollout)
    assert (paused.state, "waiting for cam-2 (offline)" in paused.reason) == (State.PAUSED, True)
    site.devices.revoke("cam-2")
    site.engine.move(rollout.id, Event.RESUME)
    site.tick(1)
    site.tick(1)
    assert site.rollout(rollout).state is State.DONE


def test_an_abort_in_the_moment_of_deciding_wins(site, monkeypatch):
    """A person aborts after the engine looked and before it acts: nobody is told anything."""
    rollout, look = site.add(*FIVE).create(), site.engine._view

    def looked(*args):
        view = look(*args)
        if view.state is State.RUNNING:
            site.engine.move(rollout.id, Event.ABORT)
        return view

    monkeypatch.setattr(site.engine, "_view", looked)
    site.tick()
    assert site.rollout(rollout).state is State.ABORTED
    assert site.downlink.sent == []


class Counting(Retained):
    """Notes with each message how many devices the rollout has directed by then."""

    def __init__(self, site, rollout):
        super().__init__()
        self.site, self.rollout, self.directed = site, rollout, []

    def publish(self, device, leaf, body, *, retain=False):
        super().publish(device, leaf, body, retain=retain)
        everyone = self.site.participants(self.rollout).values()
        self.directed.append(sum(participant.is_directed for participant in everyone))


def test_a_wave_of_many_devices_is_told_and_taken_back_in_commits_of_a_few(site):
    names = [f"cam-{number:03d}" for number in range(AT_ONCE + 3)]
    rollout = site.add(*names).create(waves=["100%"])
    site.downlink = Counting(site, rollout)
    site.restart()
    site.tick()
    assert sorted(set(site.downlink.directed)) == [AT_ONCE, AT_ONCE + 3]
    assert told(site) == set(names)
    site.downlink.directed.clear()
    site.engine.move(rollout.id, Event.ABORT)
    site.tick()
    assert set(site.downlink.directed) == {3, 0}
    assert not told(site)


def test_a_device_that_comes_during_the_rollout_joins_its_last_wave(site):
    rollout = site.add(*FIVE).create()
    site.tick()
    site.add("late-1")
    site.tick()
    assert site.participants(rollout)["late-1"].wave == 2
    assert site.wishes()["late-1"] is None


def test_a_device_that_comes_after_the_rollout_gets_its_version(site):
    rollout = site.add("cam-1").create(waves=["100%"], soak_s=0)
    site.tick()
    run_wave(site, set())
    site.tick(1)
    assert site.rollout(rollout).state is State.DONE
    site.add("late-1")
    site.tick()
    assert site.wishes()["late-1"] == "2.0.0"


def test_a_device_that_comes_to_a_rollout_of_some_devices_stays_out(site):
    rollout = site.add(*FIVE).create(devices=["cam-1", "cam-2"], waves=["1", "100%"])
    site.add("late-1")
    site.tick()
    assert set(site.participants(rollout)) == {"cam-1", "cam-2"}


def test_named_waves_take_exactly_the_devices_named(site):
    site.add(*FIVE).create(waves=["cam-4", "cam-1+cam-2", "100%"], soak_s=0)
    site.tick()
    assert told(site) == {"cam-4"}
    run_wave(site, set())
    site.tick(1)
    assert told(site) == {"cam-4", "cam-1", "cam-2"}


def test_a_draft_does_nothing_until_it_is_resumed(site):
    site.add(*FIVE)
    rollout = site.engine.create(make_spec({"model": MODEL, "version": "2.0.0"}), is_draft=True)
    site.tick(100)
    assert told(site) == set()
    site.engine.move(rollout.id, Event.RESUME)
    site.tick()
    assert len(told(site)) == 1


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"version": "9.9.9"}, "not published"),
        ({"devices": ["ghost"]}, "do not exist"),
        ({"waves": ["ghost", "100%"]}, "do not exist"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused(site, about, message):
    site.add(*FIVE)
    with pytest.raises(UsageError, match=message):
        site.create(**about)


def test_a_fleet_without_the_model_is_told_how_to_bring_it_there(site):
    site.devices.enroll("bare-1", site.now_ms, None)
    with pytest.raises(UsageError) as error:
        site.create()
    assert "--devices" in error.value.hint
    site.create(devices=["bare-1"])


def test_a_model_has_one_rollout_at_a_time(site):
    first = site.add(*FIVE).create()
    with pytest.raises(UsageError, match=first.id):
        site.create("3.0.0")
    site.engine.move(first.id, Event.ABORT)
    site.create("3.0.0")
    site.tick()
    assert len(told(site, "3.0.0")) == 1


def test_a_revoked_device_is_neither_told_nor_waited_for(site):
    rollout = site.add(*FIVE[:2]).create(waves=["cam-1", "100%"], soak_s=0)
    site.tick()
    site.devices.revoke("cam-2")
    run_wave(site, set())
    site.tick(1)
    site.tick(1)
    assert told(site) == {"cam-1"}
    assert site.rollout(rollout).state is State.DONE


def test_a_deleted_device_is_not_waited_for_and_one_in_its_name_joins_as_a_new_one(site):
    """It kept its place: the rollout waited for it in vain, and the new one was told nothing."""
    rollout = site.add(*FIVE[:2]).create(waves=["cam-1", "100%"], soak_s=0)
    site.tick()
    site.devices.delete("cam-1", site.now_ms)
    site.engine.forget("cam-1")
    site.tick(1)
    assert set(site.participants(rollout)) == {"cam-2"}
    assert any("cam-1: deleted" in str(line["text"]) for line in site.engine.store.rows.lines(rollout.id))
    site.add("cam-1")
    seen = run_wave(site, set())
    seen |= run_wave(site, seen)
    site.tick(1)
    assert seen == {"cam-1", "cam-2"}
    assert site.rollout(rollout).state is State.DONE
    site.devices.delete("cam-2", site.now_ms)
    site.engine.forget("cam-2")
    site.add("cam-2")
    site.tick(1)
    assert site.devices_by_id["cam-2"].wish() == "2.0.0"


def test_a_device_that_vanished_from_the_database_holds_no_wave_up(site):
    """Killed between the deletion and its word to the rollouts."""
    rollout = site.add(*FIVE[:2]).create(waves=["100%"], soak_s=0)
    site.tick()
    site.devices.delete("cam-2", site.now_ms)
    run_wave(site, set())
    site.tick(1)
    assert site.rollout(rollout).state is State.DONE


def test_versions_of_a_desired_state_only_grow_even_when_the_clock_jumps_back(site):
    versions = []
    site.add("cam-1")
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        wish = wire.DesiredModel(version, f"{MODEL}/{version}/bundle.json", "ab" * 32, 100)
        versions.append(site.desired.set_model("cam-1", MODEL, wish))
        site.now_ms -= 86_400_000
    assert versions == sorted(set(versions))


def test_a_wish_that_is_so_already_changes_nothing(site):
    wish = wire.DesiredModel("1.0.0", f"{MODEL}/1.0.0/bundle.json", "ab" * 32, 100)
    site.add("cam-1")
    assert site.desired.set_model("cam-1", MODEL, wish) == site.desired.set_model("cam-1", MODEL, wish)
    assert site.desired.publish_pending() == 1
    assert site.desired.publish_pending() == 0


def test_a_desired_state_that_would_be_too_large_pauses_the_rollout(site):
    rollout = site.add(*FIVE).create()
    long = wire.DesiredModel("1.0.0", wire.target_path("other", "1.0.0"), "ab" * 32, 100, rollout="x" * 7500)
    for name in FIVE:
        site.desired.set_model(name, "other", long)
    site.tick()
    found = site.rollout(rollout)
    assert found.state is State.PAUSED
    assert "devices read at most" in found.reason
    for body in site.downlink.bodies.values():
        wire.decode(body, wire.Desired)


def test_after_the_broker_forgot_everything_is_sent_again(site):
    site.add(*FIVE).create(waves=["100%"])
    site.tick()
    site.downlink.bodies.clear()
    site.desired.publish_all()
    assert told(site) == set(FIVE)


def test_a_device_that_is_behind_is_sent_its_document_when_it_connects(site):
    site.add("cam-1").create(waves=["100%"])
    site.tick()
    version = site.desired.of_device("cam-1").version
    site.downlink.sent.clear()
    site.desired.publish_if_newer("cam-1", version)
    assert site.downlink.sent == []
    site.desired.publish_if_newer("cam-1", version - 1)
    site.desired.publish_if_newer("ghost", 0)
    assert site.downlink.sent == ["cam-1"]


class PowerCutError(Exception):
    """The fleet manager dies here."""


class Fuse:
    """Burns at its N-th step: before or after a commit, before or after a message."""

    def __init__(self, steps):
        self.left = steps

    def step(self):
        self.left -= 1
        if self.left == 0:
            raise PowerCutError

    def database(self, database):
        return FusedDatabase(database, self)

    def downlink(self, downlink):
        return FusedDownlink(downlink, self)


class FusedDatabase:
    def __init__(self, database, fuse):
        self._database, self._fuse, self._depth = database, fuse, 0

    def __getattr__(self, name):
        return getattr(self._database, name)

    @contextlib.contextmanager
    def transaction(self):
        self._depth += 1
        try:
            with self._database.transaction() as sql:
                yield sql
                if self._depth == 1:
                    self._fuse.step()  # before the commit: all of it is lost
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._fuse.step()  # after the commit: all of it is kept


class FusedDownlink:
    def __init__(self, downlink, fuse):
        self._downlink, self._fuse = downlink, fuse

    def publish(self, *args, **more):
        self._fuse.step()
        self._downlink.publish(*args, **more)
        self._fuse.step()


def story(site, rollout, *, bad):
    """Play a rollout to its end: each device answers what it is told, once; the third may fail."""
    answered = set()
    for _ in range(10):
        site.tick(6)
        for name in sorted(told(site) - answered):
            answered.add(name)
            is_third = bad and site.participants(rollout)[name].wave == 1
            site.devices_by_id[name].fails() if is_third else site.devices_by_id[name].commits()
        if site.rollout(rollout).state is not State.RUNNING:
            site.tick()
            return


@pytest.mark.parametrize("bad", [False, True])
def test_killed_between_any_two_steps_the_rollout_ends_the_same(tmp_path, bad):
    """The fleet manager dies at step 1, 2, 3, ... of a whole rollout, until it no longer does."""
    for cut in itertools.count(1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        with contextlib.closing(Site(folder)) as site:
            rollout = site.add(*FIVE[:2]).create(waves=["1", "100%"])
            fuse = Fuse(cut)
            site.restart(fuse.database, fuse.downlink(site.downlink))
            with contextlib.suppress(PowerCutError):
                story(site, rollout, bad=bad)
            site.restart()
            story(site, rollout, bad=bad)
            state, wishes = site.rollout(rollout).state, set(site.wishes().values())
            expected = (State.HALTED, {"1.0.0"}) if bad else (State.DONE, {"2.0.0"})
            assert (state, wishes) == expected, f"killed at step {cut}"
        if fuse.left > 0:
            break
    assert cut > 20
