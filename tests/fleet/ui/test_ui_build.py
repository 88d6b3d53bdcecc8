"""The build's step that puts the fetched scripts into the package; npm is played by a shell script."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from edgekit_fleet.ui.assets import FOLDER

FLEET = Path(__file__).parents[3] / "fleet"


@pytest.fixture
def build():
    """The build hook as a module; its assets must be there, as after any install."""
    spec = importlib.util.spec_from_file_location("hatch_build", FLEET / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not (FOLDER / "vendor" / "htmx.min.js").exists():
        pytest.skip("the scripts were not fetched: python fleet/hatch_build.py")
    return module


def play_npm(folder, monkeypatch, *, spoil=""):
    """Put an npm first in PATH that copies what is in the package already, one file spoiled."""
    source = folder / "registry"
    for asset in json.loads((FLEET / "ui" / "package.json").read_text())["assets"]:
        path = source / "node_modules" / asset["from"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / "vendor" / asset["to"], path)
        if asset["to"] == spoil:
            path.write_bytes(path.read_bytes() + b"\nalert(1)")
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        f'#!/bin/sh\n[ "$1" = ci ] && cp -r {source}/node_modules . && echo "$*" > {folder}/called\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")


def test_the_scripts_are_fetched_by_the_lock_file_once(build, tmp_path, monkeypatch):
    play_npm(tmp_path, monkeypatch)
    target = tmp_path / "vendor"
    assert build.put_assets(target)
    assert (target / "htmx.min.js").read_bytes() == (FOLDER / "vendor" / "htmx.min.js").read_bytes()
    assert "--ignore-scripts" in (tmp_path / "called").read_text()
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\nexit 1\n")
    assert not build.put_assets(target)  # all there: nobody is asked


def test_a_script_that_was_changed_is_refused_and_nothing_of_it_is_kept(build, tmp_path, monkeypatch):
    play_npm(tmp_path, monkeypatch, spoil="uPlot.min.js")
    with pytest.raises(build.AssetError, match=r"uPlot\.iife\.min\.js: not the file"):
        build.put_assets(tmp_path / "vendor")
    assert not (tmp_path / "vendor" / "uPlot.min.js").exists()


def test_a_damaged_script_in_the_package_is_fetched_anew(build, tmp_path, monkeypatch):
    play_npm(tmp_path, monkeypatch)
    build.put_assets(tmp_path / "vendor")
    (tmp_path / "vendor" / "htmx.min.js").write_text("half of i")
    assert build.put_assets(tmp_path / "vendor")


def test_npm_that_fails_says_why(build, tmp_path, monkeypatch):
    play_npm(tmp_path, monkeypatch)
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho the registry is away >&2\nexit 1\n")
    with pytest.raises(build.AssetError, match="the registry is away"):
        build.put_assets(tmp_path / "vendor")


def test_the_lock_file_pins_every_package_by_hash_and_names_no_registry():
    lock = json.loads((FLEET / "ui" / "package-lock.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert sorted(packages) == ["node_modules/htmx.org", "node_modules/uplot"]
    assert all(one["integrity"].startswith("sha512-") for one in packages.values())
    assert "resolved" not in str(packages)
