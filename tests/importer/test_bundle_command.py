"""A bundle's folder is shown, changed and packed by one command, and stays valid."""

import json

import msgspec
import numpy as np
import pytest
from imported_nets import classifier, ultralytics

import edgekit
from edgekit.cli.main import main
from edgekit.importer.importing import import_model
from edgekit.model.bundle import open_bundle


@pytest.fixture
def bundle(tmp_path, made):
    for file in made.rglob("*"):
        target = tmp_path / "b" / file.relative_to(made)
        if file.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return tmp_path / "b"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return import_model(classifier(folder / "m.onnx", ultralytics("classify")), folder / "b").path


def test_show_has_every_conclusion_with_its_source_and_flag(bundle, capsys):
    assert main(["bundle", "show", str(bundle)]) == 0
    text = capsys.readouterr().out
    assert "[metadata: names]  --labels" in text
    assert "licence: not stated" in text


def test_set_changes_fields_and_notes_that_the_user_stated_them(bundle, capsys):
    words = ["license=MIT", "labels=cat,dog,bird", "score_threshold=0.1", "activation=softmax"]
    assert main(["bundle", "set", str(bundle), *words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    manifest = open_bundle(bundle).manifest
    assert msgspec.json.decode(msgspec.json.encode(manifest)) == shown
    assert (manifest.license, manifest.post.score_threshold) == ("MIT", 0.1)
    assert manifest.post.options == {"activation": "softmax"}
    assert open_bundle(bundle).labels() == ("cat", "dog", "bird")
    sources = {row.key: row.source for row in manifest.provenance.conclusions}
    assert sources["license"] == sources["labels"] == "flag"
    assert manifest.golden  # what it is fed did not change


def test_golden_samples_go_where_preprocessing_changes(bundle):
    assert main(["bundle", "set", str(bundle), "color=BGR"]) == 0
    manifest = open_bundle(bundle).manifest
    assert manifest.golden == ()
    assert [file.path for file in manifest.files] == ["labels.txt"]
    with edgekit.load(bundle) as model:
        assert model.predict(np.full((9, 9, 3), (0, 0, 255), np.uint8)).best.label == "blue"


def test_a_value_that_does_not_fit_changes_nothing(bundle, capsys):
    before = (bundle / "bundle.json").read_bytes()
    assert main(["bundle", "set", str(bundle), "resize=wide"]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert (bundle / "bundle.json").read_bytes() == before


def test_a_variant_for_another_accelerator_is_added_as_not_compared(bundle, tmp_path):
    engine = tmp_path / "net.engine"
    engine.write_bytes(b"engine")
    words = ["backend=foreign", "accelerator=tensorrt", "precision=fp16"]
    assert main(["bundle", "add-variant", str(bundle), str(engine), *words]) == 0
    manifest = open_bundle(bundle).manifest
    added = manifest.variants[-1]
    assert (added.id, added.inputs) == ("foreign-fp16-tensorrt", manifest.variants[0].inputs)
    assert manifest.provenance.not_compared == (added.id,)
    assert main(["bundle", "add-variant", str(bundle), str(engine), *words]) == 4


def test_pack_writes_the_same_bundle_as_one_file(bundle, capsys):
    assert main(["bundle", "pack", str(bundle)]) == 0
    packed = bundle.with_suffix(".ekb")
    assert open_bundle(packed).digest == open_bundle(bundle).digest
    assert main(["bundle", "pack", str(bundle)]) == 4  # it is there already
    with edgekit.load(packed) as model:
        assert model.predict(np.full((9, 9, 3), (0, 255, 0), np.uint8)).best.label == "green"


def test_a_bundle_whose_file_was_changed_is_not_packed(bundle):
    (bundle / "labels.txt").write_text("a\nb\nc\nd\n")
    assert main(["bundle", "pack", str(bundle)]) in (4, 6)
    assert not bundle.with_suffix(".ekb").exists()
