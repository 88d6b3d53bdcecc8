"""Where several families fit a file, one picture shows what each of them makes of the user's pictures."""

import cv2
import numpy as np
import pytest
from imported_nets import CLASSES, classifier

from edgekit.core.errors import BundleError
from edgekit.importer.importing import import_model
from edgekit.importer.sheet import write_sheet

HEADER, COLUMN = 26, 424


def refused(tmp_path, **flags):
    file = classifier(tmp_path / "m.onnx")
    with pytest.raises(BundleError, match="only you know: decoder") as caught:
        import_model(file, tmp_path / "b", flags={"mean": 0, "std": 255, "labels": CLASSES}, **flags)
    assert not (tmp_path / "b").exists()
    return caught.value


def test_candidates_are_drawn_side_by_side_on_the_users_picture(tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((100, 200, 3), (255, 0, 0), np.uint8))
    error = refused(tmp_path, try_on=tmp_path / "blue.png")
    sheet = tmp_path / "b.candidates.png"
    assert str(sheet) in error.hint
    pixels = cv2.imread(str(sheet))
    assert pixels.shape == (HEADER + 210, 2 * COLUMN, 3)
    cells = {
        name: pixels[HEADER:, COLUMN * at : COLUMN * at + 420]
        for at, name in enumerate(("classify", "embed"))
    }
    plain = np.uint8((255, 0, 0))
    written = {name: int((cell != plain).any(axis=2).sum()) for name, cell in cells.items()}
    assert written["classify"] > written["embed"], "a class has a label and a score, a vector neither"


def test_without_pictures_the_error_says_how_to_see_the_candidates(tmp_path):
    assert "--try FOLDER" in refused(tmp_path).hint
    assert not (tmp_path / "b.candidates.png").exists()


def test_a_candidate_that_cannot_be_run_says_why_in_its_column(tmp_path):
    picture = np.zeros((10, 20, 3), np.uint8)
    both = write_sheet(
        tmp_path / "s.png", [picture], {"one": ("detect", [[]]), "two": "only you know: anchors"}
    )
    first = cv2.imread(str(both))[:HEADER]
    assert (first[:, 200:420] == 255).all()
    assert (first[:, COLUMN + 120 : COLUMN + 300] < 128).any()
