"""Regressions, forecasts and outliers."""

import numpy as np
import pytest

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Post
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder


def build(decoder, shapes, options=None, labels=()):
    return make_decoder(Setup(Post(decoder=decoder, options=options or {}), labels, shapes))


def values(**arrays):
    return Outcome({name: np.asarray(array, np.float32) for name, array in arrays.items()})


def test_a_regression_gives_each_targets_number_in_its_unit():
    decode = build("regress", {"values": (1, 2)}, {"scale": [2.0, 10.0], "offset": [1.0]}, ("heat", "flow"))
    items = decode(values(values=[[0.5, 3.0]]))
    assert [(item.label, item.index, item.value) for item in items] == [("heat", 0, 2.0), ("flow", 0, 31.0)]


def test_a_forecast_gives_each_step_of_each_target():
    items = build("regress", {"values": (1, 3, 1)})(values(values=[[[1.0], [2.0], [3.0]]]))
    assert [(item.label, item.index, item.value) for item in items] == [
        ("value", 0, 1.0),
        ("value", 1, 2.0),
        ("value", 2, 3.0),
    ]


def test_a_regressions_labels_and_scales_are_as_many_as_its_targets():
    with pytest.raises(BundleError, match="want 2 labels"):
        build("regress", {"values": (1, 2)}, labels=("heat",))
    with pytest.raises(BundleError, match=r"options\.scale: want 1 or 3 values, got 2"):
        build("regress", {"values": (1, 3)}, {"scale": [1.0, 2.0]})
    for shapes in ({}, {"values": (3,)}):
        with pytest.raises(BundleError, match="needs an output 'values'"):
            build("regress", shapes)


@pytest.mark.parametrize(("is_low", "labels"), [(True, "ann"), (False, "naa")])
def test_an_outlier_is_on_the_side_of_the_threshold_that_the_model_says(is_low, labels):
    decode = build("outlier", {"score": (1, 1)}, {"threshold": 0.0, "is_low": is_low})
    items = [decode(values(score=[[number]]))[0] for number in (-0.1, 0.0, 0.2)]
    assert "".join(item.label[0] for item in items) == labels
    assert [item.value for item in items] == pytest.approx([-0.1, 0.0, 0.2])


def test_a_smoothed_outlier_follows_the_mean_of_the_last_frames():
    decode = build("outlier", {"score": (1,)}, {"threshold": 1.0, "smoothing": 3})
    assert [decode(values(score=[number]))[0].value for number in (0, 3, 3, 6)] == [0, 1.5, 2, 4]


def test_an_outlier_detector_needs_one_number_and_its_threshold():
    with pytest.raises(BundleError, match=r"post\.options\.threshold"):
        build("outlier", {"score": (1,)})
    with pytest.raises(BundleError, match="needs an output 'score'"):
        build("outlier", {}, {"threshold": 0.0})
    with pytest.raises(TensorError, match="want one value"):
        build("outlier", {"score": (1, -1)}, {"threshold": 0.0})(values(score=[[1, 2]]))
