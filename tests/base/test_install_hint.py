"""A hint names the command that works in this very installation."""

import sys
from pathlib import Path

import pytest

from edgekit.base.install_hint import install_hint, installer, require_modules
from edgekit.core.errors import ConfigError


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


@pytest.mark.parametrize(
    ("prefix", "has_pip"), [("/opt/edgekit/venv", True), ("/opt/edgekit", False), ("/srv/kit", False)]
)
def test_an_environment_of_a_package_is_told_apt(prefix, has_pip):
    assert installer(Path(prefix), Path("/usr/lib/python3"), is_venv=True, has_pip=has_pip) == "apt"


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
    assert install_hint(extra) == f"sudo apt install {package}"


def test_missing_modules_are_named_with_what_installs_them():
    with pytest.raises(ConfigError) as caught:
        require_modules("enrolment", "update", ("json", "no_such_module_a", "no_such_module_b"))
    assert caught.value.exit_code == 3
    assert "enrolment needs no_such_module_a and no_such_module_b" in caught.value.message
    assert "edgekit-runtime[update]" in caught.value.hint
