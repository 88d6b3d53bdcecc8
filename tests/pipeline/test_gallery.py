"""A gallery names the nearest of the known, says unknown otherwise, and belongs to one model."""

import numpy as np
import pytest

from edgekit.core.errors import BundleError, ConfigError, TensorError
from edgekit.core.spec import Post
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.gallery import Gallery, read_gallery

AXES = np.eye(3, dtype=np.float32)


def known():
    gallery = Gallery("faces 1.0.0", "d1")
    gallery.add("Ada", 5 * AXES[0])
    gallery.add("Ada", [4, 3, 0])
    gallery.add("Bob", AXES[1])
    return gallery


def named(vector, gallery, margin=0.05, **post):
    setup = Setup(
        Post(decoder="embed", options={"margin": margin}, **post), (), {"embedding": (1, 3)}, gallery=gallery
    )
    (item,) = make_decoder(setup)(Outcome({"embedding": np.float32([vector])}))
    return item


def test_the_nearest_name_is_the_label_and_its_cosine_the_score():
    item = named([0.8, 0.6, 0], known())
    assert (item.label, item.index, item.score) == ("Ada", 1, pytest.approx(1.0))
    assert item.vector == pytest.approx((0.8, 0.6, 0))


@pytest.mark.parametrize(
    ("vector", "margin"), [([0, 0, 2], 0.05), ([0.1, 0.2, 0.9], 0.05), ([0.62, 0.78, 0], 0.3)]
)
def test_what_is_near_to_none_or_to_two_alike_is_unknown(vector, margin):
    item = named(vector, known(), margin)
    assert (item.label, item.index) == ("unknown", 0)


def test_a_second_vector_of_the_same_name_does_not_take_its_lead():
    assert named([1, 0.3, 0], known(), 0.3).label == "Ada"


def test_without_a_gallery_only_the_unit_vector_is_reported():
    item = named([0, 3, 4], None)
    assert (item.label, item.score, item.vector) == ("", None, pytest.approx((0, 0.6, 0.8)))


def test_in_an_empty_gallery_everything_is_unknown():
    assert named([1, 0, 0], Gallery("m", "d"), score_threshold=0.0).label == "unknown"


def test_a_saved_gallery_is_read_again_by_its_model_alone(tmp_path):
    path = tmp_path / "known.json"
    known().save(path)
    assert path.stat().st_mode & 0o077 == 0  # faces are nobody else's business
    again = read_gallery(path, "faces 1.0.0", "d1")
    assert again.counts == {"Ada": 2, "Bob": 1}
    assert again.nearest(AXES[1]) == known().nearest(AXES[1])
    with pytest.raises(
        ConfigError, match=r"belongs to faces 1\.0\.0 with digest d1, .* cannot be compared"
    ) as caught:
        read_gallery(path, "faces 1.1.0", "d2")
    assert "edgekit gallery add" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"{", "gallery .*: "),
        (b'{"format":2,"model":"m","digest":"d","vectors":{}}', "format: want 1, got 2"),
    ],
)
def test_a_file_that_is_no_gallery_is_refused(tmp_path, content, reason):
    path = tmp_path / "g"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        read_gallery(path, "m", "d")


@pytest.mark.parametrize("vector", [[0, 0, 0], [], [np.nan, 1, 0], [np.inf, 0, 0]])
def test_a_vector_without_a_length_is_refused(vector):
    with pytest.raises(TensorError, match="want a vector with a length"):
        Gallery("m", "d").add("Ada", vector)


def test_names_and_lengths_are_checked():
    gallery = known()
    with pytest.raises(TensorError, match="want a vector of 3 values, got 2"):
        gallery.add("Eve", [1, 2])
    with pytest.raises(TensorError, match="its vectors have 3 values, the model's 2"):
        gallery.nearest(np.float32([1, 0]))
    for name in ("", " ", "unknown"):
        with pytest.raises(ConfigError, match="want a name"):
            gallery.add(name, AXES[0])
    with pytest.raises(ConfigError, match="there is no 'Eve'") as caught:
        gallery.remove("Eve")
    assert caught.value.hint == "known names: 'Ada', 'Bob'"
    gallery.remove("Ada")
    assert gallery.counts == {"Bob": 1}


def test_an_embedding_needs_its_output():
    with pytest.raises(BundleError, match="needs an output 'embedding'"):
        make_decoder(Setup(Post(decoder="embed"), (), {"x": (1, 3)}))
