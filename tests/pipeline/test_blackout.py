"""What a ``[[blackout]]`` covers is gone from a picture, and nothing far from it."""

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import given
from hypothesis import strategies as st

from edgekit.agent.worker.runner import make_loop
from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.model.ready import open_ready
from edgekit.pipeline.blackout import BlackedOut, BlackoutTable, paint
from edgekit.pipeline.config import parse_config

TEXT = """
[pipeline]
name = "door"
model = "m"
[source]
kind = "synthetic"
"""
CORNER = ((0.0, 0.0), (0.25, 0.0), (0.25, 0.5), (0.0, 0.5))


def reasons(more):
    with pytest.raises(ConfigError) as caught:
        parse_config(TEXT + more, "p.toml")
    return caught.value.reasons


def test_an_area_outside_the_picture_or_without_three_points_is_refused_with_its_key():
    found = reasons(
        "[[blackout]]\npolygon = [[0, 0], [1.2, 0], [1, 1]]\n"
        "[[blackout]]\npolygon = [[0, 0], [1, 1]]\n"
        "[[blackout]]\npolygon = [[0, 0], [1, 1], [1, 0], [0, 0.8]]\n"
    )
    assert [reason.removeprefix("p.toml:") for reason in found] == [
        "blackout[0].polygon[1][0]: want a float <= 1.0, got 1.2",
        "blackout[1].polygon: want at least three points around an area, got 2",
        "blackout[2].polygon: want edges that do not cross each other",
    ]
    assert "want at most 100 [[blackout]] tables" in reasons("[blackout]\npolygon = [[0, 0]]")[0]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    st.sampled_from([(40, 60), (33, 47), (8, 8)]),
)
def test_every_pixel_that_a_triangle_touches_is_black_and_none_that_is_four_pixels_off(points, size):
    height, width = size
    pixels = np.full((height, width, 3), 255, np.uint8)
    paint(pixels, [tuple(points)])
    corners = np.array(points) * (width, height)
    offsets = np.linspace(0, 1, 4)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    touched = np.zeros((height, width), bool)
    for x in offsets:
        for y in offsets:
            touched |= _is_inside(grid + np.array((x, y)), corners)
    assert not pixels[touched].any()
    far = np.ones((height, width), bool)
    for distance in (_distance(grid + 0.5, corners[i], corners[i - 1]) for i in range(3)):
        far &= distance > 4
    assert pixels[far & ~touched].all()


def _is_inside(points, corners):
    """Whether points are in a triangle, by the sign of its three edges."""
    signs = []
    for index in range(3):
        (x1, y1), (x2, y2) = corners[index - 1], corners[index]
        signs.append((x2 - x1) * (points[..., 1] - y1) - (y2 - y1) * (points[..., 0] - x1))
    return np.all(np.array(signs) > 1e-6, axis=0) | np.all(np.array(signs) < -1e-6, axis=0)


def _distance(points, start, end):
    """Return how far points are from an edge."""
    edge = end - start
    share = ((points - start) @ edge) / max(float(edge @ edge), 1e-9)
    return np.linalg.norm(points - (start + np.clip(share, 0, 1)[..., None] * edge), axis=-1)


class OneFrame:
    """A live source of one frame, with what only some sources have."""

    is_live = True
    packets = "the stream as it came"
    slots = 3

    def __init__(self, data):
        self.data = data

    def open(self):
        pass

    def read(self):
        return Frame(self.data, 0, 1, 2)

    def close(self):
        self.data = None


def test_the_source_behind_is_used_as_it_is_and_its_packets_are_not_handed_out():
    white = np.full((40, 80, 3), 255, np.uint8)
    white.setflags(write=False)  # as the memory of a library may be
    source = BlackedOut(OneFrame(white), [BlackoutTable(polygon=CORNER)])
    assert (source.is_live, source.slots, source.packets) == (True, 3, None)
    assert not hasattr(source, "halve")
    seen = source.read().data
    assert not seen[:20, :20].any()
    assert seen[24:, :].all()
    assert seen[:, 24:].all()
    assert white.all()
    source.close()
    with pytest.raises(SourceError, match="want pictures"):
        source.read()


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[:, ::-1],
        lambda pixels: pixels[::2, ::2],
        lambda pixels: pixels.transpose(1, 0, 2),
        lambda pixels: pixels[:, :, ::-1],
        lambda pixels: np.concatenate([pixels, pixels], axis=2)[:, :, :3],
    ],
)
def test_a_picture_that_is_a_turned_halved_or_cut_view_is_painted(view):
    source = BlackedOut(OneFrame(view(np.full((80, 160, 3), 255, np.uint8))), [BlackoutTable(polygon=CORNER)])
    seen = source.read().data
    height, width = seen.shape[:2]
    assert not seen[: height // 4, : width // 4].any()
    assert seen[height // 2 + 4 :, width // 2 + 4 :].all()


def test_a_model_of_windows_has_no_picture_to_paint(tmp_path):
    config = parse_config(f"{TEXT}[[blackout]]\npolygon = {[list(p) for p in CORNER]}")
    ready = open_ready(make_bundle(tmp_path / "m"))
    with pytest.raises(ConfigError, match="want a model of pictures"):
        make_loop(config, ready.predictor)
    ready.close()
