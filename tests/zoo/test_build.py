"""Building bundles: from a recipe made here without a network, and from one of the zoo's."""

import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from edgekit.backends import open_backend
from edgekit.core.errors import GoldenError, UsageError
from edgekit.core.select import wrong_arithmetic
from edgekit.core.spec import parse_manifest
from edgekit.hardware.detect import detect
from edgekit.model.bundle import open_bundle
from edgekit.model.golden import require_golden, run_golden
from edgekit.pipeline.predictor import Predictor
from edgekit_optimize.zoo.build import build
from edgekit_optimize.zoo.recipe import models_folder, recipe, recipes
from edgekit_optimize.zoo.recordings import recordings


def check_golden(path):
    """Run every variant's golden samples through the path that a device runs.

    A variant that selection leaves out on this CPU, because its runtime computes it wrongly, is left out.
    """
    bundle, facts = open_bundle(path), detect()
    for variant in bundle.manifest.variants:
        if wrong_arithmetic(variant, facts.arch, facts.cpu_features):
            continue
        backend = open_backend(bundle.path(variant), variant, {"threads": 1})
        predictor = Predictor(bundle.manifest, variant, backend, bundle.labels())
        try:
            require_golden(bundle.manifest, run_golden(bundle, predictor, variant.precision))
        finally:
            predictor.close()
    return bundle


def test_every_variant_of_a_built_bundle_passes_its_golden_samples(models, tmp_path):
    built = build("tiny", tmp_path / "out", models=models)
    assert built == tmp_path / "out" / "tiny-1.2.3"
    bundle = check_golden(built)
    assert len(bundle.manifest.variants) == 6
    assert bundle.labels() == ("north", "east", "south", "west")


def test_the_golden_samples_catch_another_models_file(models, tmp_path):
    built = build("tiny", tmp_path / "out", models=models, variants=["litert-fp32"])
    other = build(
        "tiny",
        tmp_path / "other",
        models=models,
        variants=["litert-fp32"],
        alter=lambda network: replace(
            network, layers=(*network.layers[:-1], replace(network.layers[-1], bias=np.ones(4, np.float32)))
        ),
    )
    check_golden(other)
    (built / "variants" / "fp32.tflite").write_bytes((other / "variants" / "fp32.tflite").read_bytes())
    with pytest.raises(GoldenError):
        check_golden(built)


def test_two_builds_are_the_same_bytes(models, tmp_path):
    first, second = (build("tiny", tmp_path / name, models=models, ekb=True) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_the_packed_bundle_has_the_manifest_first_and_opens(models, tmp_path):
    packed = build("tiny", tmp_path, models=models, ekb=True)
    assert packed.name == "tiny-1.2.3.ekb"
    with tarfile.open(packed) as tar:
        assert tar.getnames()[0] == "bundle.json"
    assert open_bundle(packed, tmp_path / "unpacked").manifest.version == "1.2.3"


def test_a_build_keeps_the_variants_and_takes_the_version_it_is_given(models, tmp_path):
    built = build("tiny", tmp_path, models=models, version="7.0.1", variants=["onnxruntime-fp32"])
    manifest = parse_manifest((built / "bundle.json").read_bytes())
    assert (manifest.version, [variant.id for variant in manifest.variants]) == (
        "7.0.1",
        ["onnxruntime-fp32"],
    )
    assert sorted(path.name for path in (built / "variants").iterdir()) == ["fp32.onnx"]


def test_a_second_build_replaces_the_first_whole(models, tmp_path):
    build("tiny", tmp_path, models=models)
    built = build("tiny", tmp_path, models=models, variants=["litert-fp32"])
    assert [path.name for path in (built / "variants").iterdir()] == ["fp32.tflite"]
    assert sorted(path.name for path in tmp_path.glob("*tiny*")) == ["tiny-1.2.3"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"variants": ["litert-int4"]}, "litert-int4"),
        ({"variants": []}, "no variant"),
        ({"version": "two"}, "MAJOR.MINOR.PATCH"),
        ({"name": "nothing"}, "no model 'nothing'"),
        ({"name": "../tiny"}, "no model"),
    ],
)
def test_an_unknown_model_or_variant_is_a_usage_error(asked, said, models, tmp_path):
    with pytest.raises(UsageError, match=said):
        build(asked.pop("name", "tiny"), tmp_path / "out", models=models, **asked)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_is_complete(name):
    found = recipe(name)
    folder = models_folder() / name
    assert found.model == name
    assert (folder / "card.md").is_file()
    assert {variant.backend for variant in found.variant} >= {"onnxruntime", "openvino"}
    for variant in found.variant:
        assert variant.writer != "file" or variant.file in found.package
        assert variant.precision != "int8" or variant.quality is not None, (
            "an int8 variant says what it costs"
        )
    assert "—" not in (folder / "card.md").read_text(encoding="utf-8")


def test_every_recording_is_pinned():
    assert {"bikes", "carphone", "watch"} <= recordings().keys()
    for found in recordings().values():
        assert len(found.package.sha256) == len(found.package.member_sha256) == 64


def test_the_committed_weights_and_the_recipe_normalise_alike():
    for name in ("imu-exercise", "ucr-anomaly"):
        with np.load(models_folder() / name / "weights.npz") as weights:
            np.testing.assert_allclose(recipe(name).pre.mean, weights["mean"], atol=1e-5)
            np.testing.assert_allclose(recipe(name).pre.std, weights["std"], atol=1e-5)


@pytest.mark.parametrize("name", ["imu-exercise", "ucr-anomaly"])
def test_a_model_of_the_zoo_builds_from_its_registry_and_passes(name, tmp_path):
    """Needs a registry: fetches a few megabytes."""
    built = build(name, tmp_path, cache=tmp_path / "cache")
    bundle = check_golden(built)
    assert json.loads((built / "bundle.json").read_text())["license"] == "Apache-2.0"
    assert len(bundle.manifest.golden) >= 2
