"""``edgekit gallery``, with a model whose vector is a picture's mean colour."""

import json

import numpy as np
import pytest
from onnx import helper
from onnx_bundles import make_onnx_bundle

import edgekit
from edgekit.cli.main import main
from edgekit.core.errors import ConfigError
from edgekit.pipeline.pre import vision

COLORS = {"red": (20, 30, 200), "green": (10, 220, 40), "grey": (90, 90, 90)}


def make_bundle(folder, version="1.0.0"):
    nodes = [helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[1, 2], keepdims=0)]
    return make_onnx_bundle(
        folder,
        nodes,
        [("image", "FP32", [1, 8, 8, 3])],
        [("embedding", "FP32", [1, 3])],
        {},
        version=version,
        task="embed",
        inputs=[{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "layout": "NHWC"}],
        outputs=[{"name": "embedding", "datatype": "FP32", "shape": [1, 3]}],
        post={"decoder": "embed", "score_threshold": 0.8},
    )


@pytest.fixture
def scene(tmp_path):
    """A bundle, a folder with two pictures of each colour, and where the gallery goes."""
    for name, color in COLORS.items():
        for number in range(2):
            picture = np.full((12, 16, 3), color, np.uint8) + np.uint8(3 * number)
            (tmp_path / name).mkdir(exist_ok=True)
            assert vision().imwrite(str(tmp_path / name / f"{number}.png"), picture)
    return make_bundle(tmp_path / "bundle"), tmp_path, tmp_path / "known.json"


def test_what_was_added_gets_its_name_and_the_rest_is_unknown(scene, capsys):
    bundle, pictures, path = scene
    for name in ("red", "green"):
        assert main(["gallery", "add", str(bundle), str(path), name, str(pictures / name)]) == 0
    assert main(["gallery", "show", str(bundle), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["names"] == {"red": 2, "green": 2}
    with edgekit.load(bundle, gallery=path) as model:
        seen = {
            name: model.predict(np.full((9, 9, 3), color, np.uint8)).best.label
            for name, color in COLORS.items()
        }
    assert seen == {"red": "red", "green": "green", "grey": "unknown"}
    assert main(["gallery", "remove", str(bundle), str(path), "green"]) == 0
    with edgekit.load(bundle, gallery=path) as model:
        assert model.gallery(path).counts == {"red": 2}


def test_another_version_of_the_model_refuses_the_gallery(scene, tmp_path, capsys):
    bundle, pictures, path = scene
    main(["gallery", "add", str(bundle), str(path), "red", str(pictures / "red")])
    newer = make_bundle(tmp_path / "newer", "1.1.0")
    with pytest.raises(ConfigError, match="cannot be compared"):
        edgekit.load(newer, gallery=path)
    capsys.readouterr()
    assert main(["gallery", "add", str(newer), str(path), "red", str(pictures / "red")]) == 3
    assert "belongs to small 1.0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["add", "b", "g", "Ada"], ["add", "b", "g"], ["remove", "b", "g"], ["show", "b", "g", "Ada"]]
)
def test_a_wrong_call_says_the_right_ones(words, capsys):
    assert main(["gallery", *words]) == 2
    assert "want 'add BUNDLE GALLERY NAME PICTURE...'" in capsys.readouterr().err


def test_a_run_takes_its_gallery_from_the_pipelines_file(scene, tmp_path):
    bundle, pictures, path = scene
    main(["gallery", "add", str(bundle), str(path), "red", str(pictures / "red" / "0.png")])
    (tmp_path / "door.toml").write_text(
        f'[pipeline]\nname = "door"\nmodel = "{bundle}"\n[model]\ngallery = "known.json"\n'
        f'[source]\nkind = "images"\nuri = "{pictures / "red"}"\n'
        f'[[sink]]\nkind = "jsonl"\npath = "seen.jsonl"\n'
    )
    assert main(["run", str(tmp_path / "door.toml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert [line["items"][0]["label"] for line in lines] == ["red", "red"]
