"""A release of the agent is made of wheels: its variants, its lock, and what is refused."""

from __future__ import annotations

import json
import zipfile

import pytest

from edgekit_fleet.cli.main import main
from edgekit_fleet.registry.bundle import read_bundle

OWN = "edgekit_runtime-0.2.0-py3-none-any.whl"


@pytest.fixture
def wheel(tmp_path):
    def make(file, *needs, python=">=3.10"):
        name, version = file.split("-")[:2]
        lines = [
            "Metadata-Version: 2.4",
            f"Name: {name}",
            f"Version: {version}",
            f"Requires-Python: {python}",
        ]
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            text = "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)])
            archive.writestr(f"{name}-{version}.dist-info/METADATA", text + "\n")
        return str(tmp_path / file)

    return make


def release(tmp_path, *words):
    code = main(["release", *words, "-o", str(tmp_path / "agent.ekb")])
    return read_bundle(tmp_path / "agent.ekb").manifest if code == 0 else code


def test_a_release_has_a_variant_for_each_platform_and_locks_what_it_does_not_carry(tmp_path, wheel, capsys):
    own = wheel(OWN, "msgspec>=0.19", "tomli>=2; python_version < '3.11'", "tuf>=6; extra == 'update'", "rt")
    arm = wheel("rt-2.1-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", "numpy~=1.23.1")
    pc = wheel("rt-2.1-cp313-cp313-manylinux_2_17_x86_64.whl", "numpy>=1.23,<3")
    manifest = release(tmp_path, own, arm, pc, "--pair", "door=3.2.0", "--json")
    assert json.loads(capsys.readouterr().out)["variants"] == ["aarch64-cp311", "x86-64-cp313"]
    assert (manifest.model, manifest.version, manifest.task) == ("edgekit-agent", "0.2.0", "edgekit-agent")
    first, second = manifest.variants
    assert [len(variant.files) for variant in manifest.variants] == [2, 2]
    assert first.requires.arch == ("aarch64",)
    assert first.options == {
        "python": ">=3.10, >=3.11, <3.12",
        "needs": {"msgspec": ">=0.19", "numpy": ">=1.23.1, <1.24"},
        "pairs": {"door": "3.2.0"},
    }
    assert second.options["needs"]["numpy"] == ">=1.23, <3"


def test_the_same_wheels_give_the_same_bytes(tmp_path, wheel):
    own, more = wheel(OWN), wheel("a-1-py3-none-any.whl")
    release(tmp_path, own, more)
    before = (tmp_path / "agent.ekb").read_bytes()
    manifest = release(tmp_path, more, own)
    assert (tmp_path / "agent.ekb").read_bytes() == before
    assert [variant.id for variant in manifest.variants] == ["any"]


@pytest.mark.parametrize(
    ("file", "needs", "words", "code", "reason"),
    [
        ("rt-1-py3-none-any.whl", (), (), 4, "want one wheel of edgekit-runtime, got 0"),
        ("rt-1-cp311-cp311-win_amd64.whl", (), (), 4, "is for win_amd64"),
        ("rt.whl", (), (), 4, "is not a wheel's name"),
        (OWN, ("numpy!=2.0",), (), 4, "cannot be stated as conditions"),
        (OWN, (), ("--pair", "door"), 2, "want MODEL=VERSION, got 'door'"),
    ],
)
def test_what_cannot_be_a_release_is_refused(tmp_path, wheel, capsys, file, needs, words, code, reason):
    path = wheel(file, *needs) if file.count("-") > 1 else str(tmp_path / file)
    assert release(tmp_path, path, *words) == code
    assert reason in capsys.readouterr().err
