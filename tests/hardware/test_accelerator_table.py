"""A new accelerator is one row: found, chosen and explained, without another change."""

import importlib

import pytest
from boards import RPI5, plant, usb

from edgekit.backends import BACKENDS
from edgekit.base.accelerators import ROWS, accelerator, rows_for
from edgekit.base.paths import profiles_dir
from edgekit.base.plugins import load_target
from edgekit.core.errors import ConfigError
from edgekit.core.select import select
from edgekit.core.spec import BackendFact, Facts, Profile, ProfileBackend, Variant, parse_manifest
from edgekit.hardware.detect import detect
from edgekit.model import doctor
from edgekit.model.doctor import examine

NOT_PROVED = "present, not proved: x"
TOY = """
from edgekit.base.accelerators import Accelerator
ROW = Accelerator(
    kind="toy-npu", title="Toy NPU", usb=("1234:5678",), library="libtoy.so*", proof="none",
    runs={"openvino": "CPU"}, library_fix="sudo apt install libtoy",
)
OTHER = 3
"""
TOY_PROFILE = """
id = "toy-box"
title = "A box with a toy"
[match]
arch = ["aarch64"]
usb = ["1234:5678"]
[[backend]]
name = "openvino"
accelerator = "toy-npu"
[[backend]]
name = "litert"
"""
STICK = usb("1-1", "1234", "5678")
LIBRARY = {"/usr/lib/libtoy.so.1": ""}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that installs a distribution whose entry points add accelerators."""
    site = tmp_path / "site"

    def install(**rows):
        info = site / "edgekit_toy-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "edgekit_toy.py").write_text(TOY)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgekit-toy\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {target}" for name, target in rows.items()]
        (info / "entry_points.txt").write_text("[edgekit.accelerators]\n" + "\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    return install


@pytest.fixture
def toy_profile(tmp_path, monkeypatch):
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "toy-box.toml").write_text(TOY_PROFILE)
    monkeypatch.setenv("EDGEKIT_PROFILES", str(folder))


def manifest_of(accelerator_kind):
    return parse_manifest(
        b'{"format":1,"model":"m","version":"1.0.0","task":"raw","inputs":[],"outputs":[],"variants":['
        b'{"id":"v","backend":"openvino","accelerator":"%s","files":[{"path":"v.xml","bytes":1,"sha256":"%s"}]}]}'
        % (accelerator_kind.encode(), b"0" * 64)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_every_row_names_backends_and_a_detector_that_exist(row):
    assert set(row.runs) <= set(BACKENDS)
    if row.detector:
        assert callable(load_target(row.detector))


def test_a_row_of_a_package_is_found_proved_chosen_and_explained(tmp_path, monkeypatch, package, toy_profile):
    package(toy_npu="edgekit_toy:ROW")
    root = plant(tmp_path / "board", RPI5 | STICK | LIBRARY)
    monkeypatch.setattr(doctor, "_is_live", lambda path: path == root)

    def prove(name, kind, options, timeout_s):
        return BackendFact(name=name, version="1", accelerator=kind, works=True, ms=1.0)

    found = examine(root, prove)
    assert found.chosen.profile.id == "toy-box"
    device = next(a for a in found.facts.accelerators if a.kind == "toy-npu")
    assert (device.name, device.usable) == ("Toy NPU", True)
    assert [level.name for level in device.levels] == ["present", "driver", "permission", "library", "proof"]
    selection = select(manifest_of("toy-npu"), found.facts, found.chosen.profile)
    assert selection.chosen.accelerator == "toy-npu"


def test_a_device_of_a_row_without_its_library_says_what_to_install(tmp_path, package, toy_profile):
    package(toy_npu="edgekit_toy:ROW")
    facts = examine(plant(tmp_path / "board", RPI5 | STICK)).facts
    device = next(a for a in facts.accelerators if a.kind == "toy-npu")
    assert (device.usable, device.reason) == (False, "libtoy.so* is not installed")
    assert device.levels[-1].fix == "sudo apt install libtoy"
    selection = select(manifest_of("toy-npu"), facts, Profile(id="p", title="p"))
    assert any("accelerator 'toy-npu' is present but not usable" in r for r in selection.rejected[0].reasons)


def test_without_its_package_a_profile_s_row_is_named_with_the_group(tmp_path, toy_profile, monkeypatch):
    (toy,) = (profile for profile in doctor.load_profiles((profiles_dir(),)) if profile.id == "toy-box")
    monkeypatch.setattr(doctor, "load_profiles", lambda _: (toy,))
    facts = examine(plant(tmp_path / "board", RPI5 | STICK)).facts
    backend = facts.backends[0]
    assert not backend.works
    assert "no row 'toy-npu' in the table of accelerators" in backend.reason
    assert "edgekit.accelerators" in backend.reason


def test_a_manifest_names_any_kind_and_one_that_is_not_here_is_a_reason():
    manifest = manifest_of("next-years:npu")
    selection = select(manifest, Facts(arch="x86_64"), Profile(id="p", title="p"))
    assert "needs accelerator 'next-years:npu', this device has none" in selection.rejected[0].reasons


def test_an_entry_point_that_is_no_row_is_a_clear_error(package):
    package(other="edgekit_toy:OTHER", gone="edgekit_toy:GONE", toy_npu="edgekit_toy:ROW")
    with pytest.raises(ConfigError, match="is not an accelerator row of kind 'other'"):
        accelerator("other")
    with pytest.raises(ConfigError, match="edgekit_toy:GONE cannot be loaded"):
        accelerator("gone")
    assert accelerator("absent") is None
    assert [row.kind for row in rows_for({"cpu", "toy-npu", "absent"})][len(ROWS) :] == ["toy-npu"]


@pytest.mark.parametrize(
    ("row", "title"),
    [
        (
            ProfileBackend(name="litert", accelerator="delegate", options={"delegate": {"path": "/x.so"}}),
            "the LiteRT",
        ),
        (ProfileBackend(name="onnxruntime", accelerator="ort:CPUExecutionProvider"), "ONNX Runtime's CPU"),
    ],
    ids=["delegate", "provider"],
)
def test_what_only_a_backend_can_find_is_present_once_it_is_proved(tmp_path, monkeypatch, row, title):
    """A LiteRT delegate or a provider of ONNX Runtime has no device of its own to look for."""
    profile = Profile(id="p", title="p", backend=(row,))
    root = plant(tmp_path / "board", RPI5)
    monkeypatch.setattr(doctor, "_is_live", lambda path: path == root)
    monkeypatch.setattr(doctor, "load_profiles", lambda _: (profile,))

    def prove(name, kind, options, timeout_s):
        return BackendFact(
            name=name, version="1", accelerator=kind, works=True, reason="present, not proved: x"
        )

    facts = examine(root, prove).facts
    device = facts.accelerators[-1]
    assert device.kind == row.accelerator
    assert device.usable
    assert device.name.startswith(title)
    assert NOT_PROVED in device.levels[-1].detail
    variant = Variant(id="v", backend=row.name, accelerator=row.accelerator)
    assert select(one_variant(variant), facts, profile).chosen == variant

    def fail(name, kind, options, timeout_s):
        return BackendFact(name=name, version="1", accelerator=kind, reason="no such library")

    facts = examine(root, fail).facts
    assert all(a.kind != row.accelerator for a in facts.accelerators)
    reasons = select(one_variant(variant), facts, profile).rejected[0].reasons
    assert any("no such library" in reason for reason in reasons)


def one_variant(variant):
    manifest = manifest_of("cpu")
    return type(manifest)(
        format=1, model="m", version="1.0.0", task="raw", inputs=(), outputs=(), variants=(variant,)
    )


def test_detection_looks_only_for_the_rows_it_is_given(tmp_path):
    facts = detect(plant(tmp_path, RPI5 | STICK), rows=())
    assert [a.kind for a in facts.accelerators] == ["cpu"]
