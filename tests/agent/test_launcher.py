"""Which agent starts, from what is on the disk alone."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from edgekit.agent.launcher import Start, decide
from edgekit.core.spec import AGENT
from edgekit.update.release import (
    MAX_STARTS,
    Base,
    Launch,
    Release,
    environment_of,
    fail_launch,
    load_launch,
    program_of,
    releases_folder,
    save_launch,
)
from edgekit.update.slots import Installed, Slot, Slots

BASE = Base("/opt/edgekit/bin/python3", "0.1.0", "3.11.2", ("/opt/edgekit/lib/python3.11/site-packages",))
OTHER = Base(BASE.program, "0.1.1", BASE.python, BASE.paths)
THE_BASE = Start(BASE.program, "0.1.0, the installation")


@pytest.fixture
def state(tmp_path):
    return tmp_path


def make(state, version, base=BASE):
    folder = environment_of(state, version)
    folder.mkdir(parents=True)
    (folder / "release.json").write_bytes(msgspec.json.encode(Release(version, version * 2, base)))


def fill(state, **slots):
    Slots(state)._save(AGENT, Slot(**{name: Installed(v, v * 2) for name, v in slots.items()}))


def start_of(state, version, trial=None):
    return Start(str(program_of(environment_of(state, version))), version, trial)


def test_without_any_release_the_installation_starts(state):
    assert decide(state, BASE) == THE_BASE


def test_a_committed_release_starts_and_the_one_before_it_where_that_is_not_whole(state):
    make(state, "0.2.0")
    make(state, "0.3.0")
    fill(state, active="0.3.0", previous="0.2.0")
    assert decide(state, BASE) == start_of(state, "0.3.0")
    (environment_of(state, "0.3.0") / "release.json").write_text("{")
    assert decide(state, BASE) == start_of(state, "0.2.0")


def test_releases_of_another_installation_are_left_for_the_new_installation(state):
    make(state, "0.2.0", OTHER)
    fill(state, active="0.2.0")
    assert decide(state, BASE) == THE_BASE
    assert decide(state, OTHER).version == "0.2.0"


def test_a_release_on_trial_starts_twice_at_most_and_then_says_why_it_does_not(state):
    make(state, "0.2.0")
    fill(state, staged="0.2.0")
    for starts in range(MAX_STARTS):
        launch = Launch(version="0.2.0", starts=starts)
        save_launch(state, launch)
        assert decide(state, BASE) == start_of(state, "0.2.0", launch)
    save_launch(state, Launch(version="0.2.0", starts=MAX_STARTS))
    assert decide(state, BASE) == THE_BASE
    assert "never committed" in load_launch(state).failed


def test_the_first_reason_for_leaving_a_release_stays(state):
    save_launch(state, Launch(version="0.2.0"))
    fail_launch(state, "0.3.0", "another one")
    fail_launch(state, "0.2.0", "first")
    fail_launch(state, "0.2.0", "second")
    assert load_launch(state).failed == "first"


@pytest.mark.parametrize(
    ("has_environment", "is_staged", "launch", "active"),
    list(
        itertools.product(
            (True, False),
            (True, False),
            (None, Launch(version="0.2.0"), Launch(version="0.2.0", failed="x"), Launch(version="0.9.0")),
            (None, "0.1.5"),
        )
    ),
)
def test_whatever_a_power_cut_leaves_one_of_the_two_starts(state, has_environment, is_staged, launch, active):
    """Each file was written or not; only a whole release that is staged and on trial is tried."""
    if has_environment:
        make(state, "0.2.0")
    if active:
        make(state, active)
    fill(state, **({"staged": "0.2.0"} if is_staged else {}), **({"active": active} if active else {}))
    if launch:
        save_launch(state, launch)
    before = start_of(state, active) if active else THE_BASE
    is_tried = has_environment and is_staged and launch == Launch(version="0.2.0")
    assert decide(state, BASE) == (start_of(state, "0.2.0", launch) if is_tried else before)


def test_damaged_records_start_what_was_committed_or_the_installation(state):
    make(state, "0.2.0")
    fill(state, active="0.2.0")
    (releases_folder(state) / "launch.json").write_text("{")
    assert decide(state, BASE) == start_of(state, "0.2.0")
    (state / "slots" / f"{AGENT}.json").write_text("{")
    assert decide(state, BASE) == THE_BASE
