"""A hint names the command that works in this very installation."""

import sys
from pathlib import Path

import pytest

from edgekit.base.install_hint import install_hint, installer, require_modules
from edgekit.core.errors import ConfigError

DOCKER = Path(__file__).parents[2] / "packaging" / "docker"


def test_a_virtual_environment_with_pip_is_told_pip(tmp_path):
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    assert installer(tmp_path, tmp_path, is_venv=True, has_pip=True) == "pip install"


def test_an_environment_that_uv_made_is_told_uv(tmp_path):
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\n")
    assert installer(tmp_path, tmp_path, is_venv=True, has_pip=False) == "uv pip install"


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("pipx_metadata.json", "pipx inject edgekit-runtime"),
        ("uv-receipt.toml", "uv tool install edgekit-runtime --with"),
    ],
)
def test_a_program_that_a_tool_installed_is_told_that_tool(tmp_path, file, command):
    (tmp_path / file).touch()
    assert installer(tmp_path, tmp_path, is_venv=True, has_pip=False) == command


def test_a_system_python_that_refuses_pip_is_told_apt(tmp_path):
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    assert installer(tmp_path, tmp_path, is_venv=False, has_pip=True) == "apt"


@pytest.mark.parametrize(("has_pip", "tool"), [(False, "apt"), (True, "pip install")])
def test_an_environment_below_opt_is_told_apt_unless_somebody_made_it_with_pip(has_pip, tool):
    prefix = Path("/opt/edgekit")
    assert installer(prefix, Path("/usr/lib/python3"), is_venv=True, has_pip=has_pip) == tool


def test_a_container_is_told_to_build_its_image_anew(tmp_path, monkeypatch):
    (tmp_path / "edgekit-image").touch()
    assert installer(tmp_path, tmp_path, is_venv=True, has_pip=True) == "image"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert install_hint("rtsp") == "build the image with rtsp among the extras that its Dockerfile installs"


@pytest.mark.parametrize("file", sorted(DOCKER.glob("agent*.Dockerfile")))
def test_every_dockerfile_of_the_agent_marks_its_environment(file):
    assert "&& touch /opt/edgekit/edgekit-image" in file.read_text()


@pytest.mark.parametrize(
    ("extra", "package"),
    [
        ("litert", "edgekit-litert"),
        ("openvino", "edgekit-openvino"),
        ("rtsp", "edgekit-rtsp"),
        ("update", "edgekit"),
    ],
)
def test_a_packaged_installation_names_the_debian_package(extra, package, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/opt/edgekit")
    monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", lambda *_: None)  # it has no pip
    assert install_hint(extra) == f"sudo apt install {package}"


def test_missing_modules_are_named_with_what_installs_them():
    with pytest.raises(ConfigError) as caught:
        require_modules("enrolment", "update", ("json", "no_such_module_a", "no_such_module_b"))
    assert caught.value.exit_code == 3
    assert "enrolment needs no_such_module_a and no_such_module_b" in caught.value.message
    assert "edgekit-runtime[update]" in caught.value.hint
