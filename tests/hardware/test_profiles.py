"""Profiles are checked strictly and whole, and the most specific one wins, told why."""

import shutil
from pathlib import Path

import pytest

from edgekit.backends import check_options
from edgekit.core.errors import ConfigError
from edgekit.core.spec import AcceleratorFact, Facts, Match, Profile, ProfileBackend
from edgekit.hardware.profiles import choose, judge, load_profiles

CHECKOUT = Path(__file__).resolve().parents[2] / "device_profiles"
SHIPPED = load_profiles()
# Source: the design's list of boards, and the Coral cards that detection knows.
WANTED = {
    "rpi4",
    "rpi5",
    "rpi5-coral-usb",
    "coral-dev-board",
    "coral-usb",
    "coral-pcie",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "jetson-agx-orin",
    "jetson-xavier-nx",
    "ncs2",
    "intel-npu",
    "intel-x86",
    "generic-arm64",
    "generic-x86_64",
}


def test_every_board_of_the_design_has_a_profile():
    assert {profile.id for profile in SHIPPED} == WANTED


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda p: p.id)
def test_every_option_is_one_that_its_backend_knows(profile):
    for backend in profile.backend:
        check_options(backend.name, backend.options)


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda p: p.id)
def test_no_two_rows_of_a_profile_are_for_the_same_backend_and_accelerator(profile):
    pairs = [(backend.name, backend.accelerator) for backend in profile.backend]
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda p: p.id)
def test_every_profile_says_what_it_bears_and_where_to_read_it(profile):
    assert profile.limits.temperature_c > 0
    assert profile.telemetry.temperature


def test_profiles_inside_the_package_win_over_a_checkout(tmp_path, monkeypatch):
    """The wheel has them as package data, where no checkout is."""
    package = tmp_path / "edgekit"
    shutil.copytree(CHECKOUT, package / "_data" / "device_profiles")
    monkeypatch.setattr("importlib.resources.files", lambda _: package)
    assert {profile.id for profile in load_profiles()} == WANTED


def test_a_missing_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path / "edgekit")
    with pytest.raises(ConfigError, match="no device profiles"):
        load_profiles()


GOOD = """
id = "mine"
title = "My board"
[match]
arch = ["aarch64"]
compatible = ["acme,board*"]
[[backend]]
name = "litert"
"""


def test_a_board_is_added_with_one_file(tmp_path):
    (tmp_path / "mine.toml").write_text(GOOD)
    mine = next(p for p in load_profiles((tmp_path,)) if p.id == "mine")
    facts = Facts(arch="aarch64", compatible=("acme,board-2", "acme,soc"))
    assert choose(load_profiles((tmp_path,)), facts).profile == mine


def test_a_local_profile_replaces_the_shipped_one_of_its_name(tmp_path):
    (tmp_path / "rpi5.toml").write_text(GOOD.replace("mine", "rpi5"))
    found = [p for p in load_profiles((tmp_path,)) if p.id == "rpi5"]
    assert [p.title for p in found] == ["My board"]


def test_everything_that_is_wrong_in_all_files_is_told_at_once(tmp_path):
    (tmp_path / "a.toml").write_text('title = 3\ncolour = "red"\n[limits]\nmemory_mb = "much"\n')
    (tmp_path / "b.toml").write_text(GOOD.replace("mine", "other").replace('arch = ["aarch64"]', ""))
    (tmp_path / "c.toml").write_text("not toml at all")
    (tmp_path / "d.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as caught:
        load_profiles((tmp_path,))
    told = "\n".join(caught.value.reasons)
    for part in (
        "a.toml:id: want a str, got nothing",
        "a.toml:title: want a str, got ",
        "a.toml:colour: want one of accelerator, backend, ",
        "a.toml:limits.memory_mb: want an int, got ",
        "b.toml:id: want the file's name",
        "b.toml:match.arch: missing",
        "c.toml: not TOML",
        "d.toml: ",
    ):
        assert part in told


def test_a_profile_must_have_a_cpu_backend_and_one_for_each_accelerator(tmp_path):
    text = GOOD.replace('name = "litert"', 'name = "litert"\naccelerator = "edgetpu"')
    (tmp_path / "mine.toml").write_text(text + '[[accelerator]]\nkind = "npu"\n')
    with pytest.raises(ConfigError) as caught:
        load_profiles((tmp_path,))
    assert caught.value.reasons[0] == "mine.toml:backend: want at least one on 'cpu', to fall back to"
    assert "mine.toml:accelerator: no backend for 'npu'" in caught.value.reasons


# -- choosing


def profile(name: str, match: Match, *accelerators: str) -> Profile:
    rows = tuple(ProfileBackend(name="litert", accelerator=kind) for kind in (*accelerators, "cpu"))
    return Profile(id=name, title=name, match=match, backend=rows)


ARM = Facts(
    arch="aarch64",
    board="Acme One",
    compatible=("acme,one",),
    usb=("1a6e:089a",),
    memory_mb=2000,
    dmi={"sys_vendor": "Acme"},
    accelerators=(AcceleratorFact(kind="cpu"), AcceleratorFact(kind="edgetpu")),
)


def test_a_profile_that_uses_the_accelerator_wins_over_a_closer_board():
    board = profile("board", Match(compatible=("acme,one",)))
    stick = profile("stick", Match(usb=("1a6e:089a",)), "edgetpu")
    assert choose([board, stick], ARM).profile.id == "stick"


def test_of_profiles_that_use_the_same_accelerators_the_board_wins():
    board = profile("board", Match(compatible=("acme,one",)), "edgetpu")
    stick = profile("stick", Match(usb=("1a6e:089a",)), "edgetpu")
    assert choose([stick, board], ARM).profile.id == "board"


def test_more_rules_win_over_fewer():
    both = profile("both", Match(compatible=("acme,*",), usb=("1a6e:*",)))
    board = profile("board", Match(compatible=("acme,one",)))
    assert choose([board, both], ARM).profile.id == "both"


def test_a_tie_is_told_and_settled_by_name():
    chosen = choose([profile("b", Match(arch=("aarch64",))), profile("a", Match(arch=("aarch64",)))], ARM)
    assert (chosen.profile.id, chosen.tied) == ("a", ("b",))


def test_every_rule_must_hold_and_the_first_broken_one_is_told():
    verdict = judge(profile("x", Match(compatible=("acme,one",), usb=("ffff:*",), arch=("x86_64",))), ARM)
    assert not verdict.fits
    assert verdict.reason == "usb: want ffff:*, found 1a6e:089a"


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(memory_mb=(1000, 4000)), True),
        (Match(memory_mb=(4000, 8000)), False),
        (Match(dmi={"sys_vendor": "Ac*"}), True),
        (Match(dmi={"product_name": "*"}), False),
        (Match(model=("Acme *",)), True),
        (Match(nodes=("/dev/apex_*",)), False),
        (Match(cpu_features=("asimddp",)), False),
        (Match(), True),
    ],
)
def test_each_kind_of_rule_is_held_against_the_facts(match, fits):
    assert judge(profile("x", match), ARM).fits is fits


def test_no_profile_for_a_machine_says_why_not_for_each():
    with pytest.raises(ConfigError) as caught:
        choose(SHIPPED, Facts(arch="riscv64"))
    assert len(caught.value.reasons) == len(SHIPPED)
    assert "generic-arm64: arch: want aarch64, found riscv64" in caught.value.reasons


def test_the_home_of_a_cache_folder_is_this_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    orin = next(p for p in load_profiles() if p.id == "jetson-orin-nano")
    assert orin.backend[0].options["cache"] == f"{tmp_path}/.cache/edgekit/tensorrt"
