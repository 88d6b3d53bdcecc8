"""What a variant's own process feeds a model with, and which answers it can compare."""

import numpy as np
import pytest

from edgekit.bench import variant_child
from edgekit.core.errors import ModelError
from edgekit.core.spec import TensorSpec
from edgekit.model.synthetic import fill_noise


class Views:
    """A backend as far as its inputs go."""

    def __init__(self, **inputs):
        self.arrays = inputs
        self.inputs = tuple(
            TensorSpec(name=name, datatype=str(array.dtype).upper(), shape=array.shape)
            for name, array in inputs.items()
        )

    def view(self, name):
        return self.arrays[name]


def test_noise_points_into_no_table_beyond_its_second_row_and_fills_images():
    views = Views(
        ids=np.full((1, 64), 9, np.int64), lengths=np.full(8, 9, np.int32), image=np.zeros((1, 64), np.uint8)
    )
    fill_noise(views)
    assert set(views.arrays["ids"].flat) == {0, 1}
    assert set(views.arrays["lengths"].flat) <= {0, 1}
    assert views.arrays["image"].max() > 100


def test_an_output_whose_size_depends_on_the_data_is_named():
    same = [{"scores": np.zeros((1, 3))}, {"scores": np.ones((1, 3))}]
    variant_child._require_one_shape(same)
    other = [*same, {"scores": np.zeros((1, 2))}]
    with pytest.raises(
        ModelError, match=r"'scores' has shape \[1, 3\] for one sample and \[1, 2\] for another"
    ):
        variant_child._require_one_shape(other)
