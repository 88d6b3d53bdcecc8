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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id = ", "Invalid"),
        ('id = "box"\nnonesuch = 1\n', "nonesuch"),
        ('id = "box"\ntitle = 5\n', "title"),
    ],
)
def test_a_profile_file_with_a_mistake_is_exit_3_and_named(edgekit, tmp_path, monkeypatch, text, told):
    (tmp_path / "box.toml").write_text(text)
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path))
    done = edgekit("profiles", "--json")
    assert (done.code, done.error["code"]) == (3, "config")
    whole = done.error["message"] + "".join(done.error["reasons"])
    assert "box.toml" in whole
    assert told in whole


def test_a_profile_of_ones_own_is_listed_and_shown(edgekit, tmp_path, monkeypatch):
    (tmp_path / "box.toml").write_text(
        'id = "box"\ntitle = "A box"\n[match]\narch = ["riscv64"]\n[[backend]]\nname = "litert"\n'
    )
    monkeypatch.setenv("EDGEKIT_PROFILES", str(tmp_path))
    rows = edgekit("profiles", "--json").document["profiles"]
    assert next(row for row in rows if row["id"] == "box")["this_machine"] is False
    assert edgekit("profiles", "box", "--json").document["title"] == "A box"
    assert "does not fit" in edgekit("profiles", "box").out
