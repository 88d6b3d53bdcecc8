"""``edgekit profiles`` lists the boards, shows one in full, and says which this machine is."""

import argparse

import pytest

from edgekit.cli import profiles as command
from edgekit.core.errors import UsageError
from edgekit.hardware.profiles import load_profiles


def run(name=None):
    return command.run(argparse.Namespace(id=name))


def test_the_list_has_every_profile_and_marks_this_machines():
    report = run()
    ids = [row["id"] for row in report.document["profiles"]]
    assert ids == [profile.id for profile in load_profiles()]
    here = [row["id"] for row in report.document["profiles"] if row["this_machine"]]
    assert here == [report.document["this_machine"]]
    assert f"* {here[0]} " in report.text


@pytest.mark.parametrize("profile", load_profiles(), ids=lambda p: p.id)
def test_one_is_shown_in_full(profile):
    report = run(profile.id)
    assert report.document["id"] == profile.id
    for backend in profile.backend:
        assert f"{backend.name:<13}{backend.accelerator}" in report.text
    for accelerator in profile.accelerator:
        assert accelerator.needs in report.text
    assert profile.notes.strip().splitlines()[0] in report.text
    assert "this machine: " in report.text


def test_an_unknown_one_is_a_usage_error_that_lists_the_known():
    with pytest.raises(UsageError) as caught:
        run("rpi9")
    assert "rpi5-coral-usb" in caught.value.hint
