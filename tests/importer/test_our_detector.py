"""A detector of the YOLO family that we trained: from its export to boxes in a video, with nothing stated."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.core.errors import BundleError
from edgekit.importer.importing import import_model
from edgekit.pipeline.decoders.nms import overlap

FOLDER = Path(__file__).parents[2] / "examples" / "detect"
LABELS = ("circle", "square", "triangle")
SCENES = range(100, 124)
"""Seeds of scenes that are not in the training data, which begins at a million."""


@pytest.fixture(scope="module")
def ours():
    """Return the example's modules: the network's export and its made scenes."""
    sys.path.insert(0, str(FOLDER))
    try:
        import net
        import scenes

        yield net, scenes
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("net", "scenes"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def bundle(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    return import_model(ours[0].export(folder / "m.onnx"), folder / "shapes")


def test_its_shapes_say_what_it_is_and_its_labels_stand_beside_it(bundle):
    manifest = bundle.manifest
    assert (manifest.provenance.family, manifest.task) == ("yolov8", "detect")
    assert {v.backend for v in manifest.variants} == {"onnxruntime", "openvino"}
    assert (bundle.path / "labels.txt").read_text().split() == list(LABELS)
    assert len(manifest.golden) == 2


@pytest.mark.parametrize("size", [(128, 128), (320, 240)])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_sees_most_shapes_where_they_are_and_what_it_is_sure_of_is_there(ours, bundle, backend, size):
    variant = next(v.id for v in bundle.manifest.variants if v.backend == backend)
    drawn = hits = sure = right = 0
    with edgekit.load(bundle.path, variant=variant, score_threshold=0.3) as model:
        for seed in SCENES:
            pixels, shapes = ours[1].scene(seed, *size)
            items = model.predict(pixels).items
            drawn += len(shapes)
            hits += sum(any(_is(item, row) for item in items) for row in shapes.tolist())
            certain = [item for item in items if item.score >= 0.5]
            sure += len(certain)
            right += sum(any(_is(item, row) for row in shapes.tolist()) for item in certain)
    assert hits >= 0.85 * drawn
    assert right >= 0.85 * sure > 0.5 * drawn


def _is(item, row):
    return item.label == LABELS[int(row[0])] and overlap(np.float32(item.box), np.float32(row[1:])) > 0.6


def test_two_commands_and_no_settings_lead_from_its_file_to_boxes_in_a_video(
    ours, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    net, scenes = ours
    net.export(tmp_path / "net.onnx")
    writer = cv2.VideoWriter("made.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
    for seed in range(200, 206):
        writer.write(scenes.scene(seed, 320, 240)[0])
    writer.release()
    assert main(["import", "net.onnx", "-o", "shapes"]) == 0
    assert (
        main(["run", "shapes", "--source", "made.mp4", "--sink", "video", "--sink", "jsonl", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"]["processed"] == 6
    rows = [json.loads(line) for line in Path("made-seen.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert Path("made-seen.mp4").stat().st_size


def test_a_list_of_labels_that_does_not_fit_is_refused(ours, tmp_path):
    file = ours[0].export(tmp_path / "m.onnx")
    (tmp_path / "labels.txt").write_text("circle\nsquare\n")
    with pytest.raises(BundleError, match="labels.txt names 2 classes, its outputs have 3") as caught:
        import_model(file, tmp_path / "b")
    assert caught.value.exit_code == 4
