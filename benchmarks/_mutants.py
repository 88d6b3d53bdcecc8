"""A pytest plugin that breaks one decoder in one way: ``MUTANT=decoder:kind pytest -p _mutants``.

``MUTANT=:record`` breaks nothing and writes to ``MUTANT_LOG`` which test builds which decoder.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.core.spec import Item
from edgekit.pipeline import decoders
from edgekit.pipeline.decoders import DECODERS, Setup
from edgekit.pipeline.masks import cells_of, to_mask

DECODER, _, KIND = os.environ.get("MUTANT", ":").partition(":")
_current: list[str] = []


def swapped(item: Item) -> Item:
    """Return an item with x and y swapped."""
    left, top, right, bottom = item.box or (0, 0, 0, 0)
    oriented = item.oriented_box and (item.oriented_box[1], item.oriented_box[0], *item.oriented_box[2:])
    points = tuple((y, x) for x, y in item.points)
    box = (top, left, bottom, right) if item.box else None
    return msgspec.structs.replace(item, box=box, oriented_box=oriented, points=points)


def shifted(setup: Setup, item: Item) -> Item:
    """Return an item of the next class, a text in the next letters."""
    index = (item.index or 0) + 1
    label = setup.labels[index % len(setup.labels)] if setup.labels else str(index)
    following = dict(zip(setup.labels, (*setup.labels[1:], *setup.labels[:1]), strict=True))
    text = "".join(following.get(letter, letter) for letter in item.text)
    return msgspec.structs.replace(item, index=index, label=label, text=text)


def reflected(item: Item) -> Item:
    """Return an item whose mask is its mirror image, in the same part of the picture."""
    mask = item.mask and to_mask(cells_of(item.mask)[:, ::-1], item.mask.area)
    return msgspec.structs.replace(item, mask=mask)


def turned(item: Item) -> Item:
    """Return an item whose oriented box is turned the other way."""
    box = item.oriented_box and (*item.oriented_box[:4], -item.oriented_box[4])
    return msgspec.structs.replace(item, oriented_box=box)


def doubled_value(item: Item) -> Item:
    """Return an item whose number and vector are twice as large."""
    value = None if item.value is None else 2 * item.value
    return msgspec.structs.replace(item, value=value, vector=tuple(2 * x for x in item.vector))


def crossed(item: Item) -> Item:
    """Return an item with x and y of its points swapped, its box as it is."""
    return msgspec.structs.replace(item, points=tuple((y, x) for x, y in item.points))


ITEM_KINDS: dict[str, Callable[[Item], Item]] = {
    "xy": swapped,
    "points": crossed,
    "mask": reflected,
    "angle": turned,
    "value": doubled_value,
}


def doubled(setup: Setup) -> Setup:
    """Return a set-up whose cells, or whose input where it has none, are twice as large."""
    options = dict(setup.post.options)
    if "strides" in options or "stride" in options or setup.post.decoder == "centre":
        strides = [2 * stride for stride in options.get("strides", ())]
        options |= {"strides": strides} if strides else {"stride": 2 * options.get("stride", 4)}
        return replaced(setup, options=options)
    width, height = setup.input_size or (0, 0)
    return dataclasses.replace(setup, input_size=(2 * width, 2 * height))


def replaced(setup: Setup, **post: Any) -> Setup:
    """Return a set-up with other fields of ``post``."""
    return dataclasses.replace(setup, post=msgspec.structs.replace(setup.post, **post))


def broken(build: Callable[[Setup], Any]) -> Callable[[Setup], Any]:
    """Return a builder of decoders that are broken as ``KIND`` says."""

    def wrapped(setup: Setup) -> Any:
        if KIND == "stride":
            setup = doubled(setup)
        elif KIND == "nms":
            setup = replaced(setup, iou_threshold=1.0)
        decode = build(setup)
        if KIND in ITEM_KINDS:
            return lambda outcome: tuple(map(ITEM_KINDS[KIND], decode(outcome)))
        if KIND == "class":
            return lambda outcome: tuple(shifted(setup, item) for item in decode(outcome))
        return decode

    return wrapped


def pytest_configure() -> None:
    """Put the broken decoder in the place of the right one."""
    if KIND == "record":
        make = decoders.make_decoder

        def recorded(setup: Setup) -> Any:
            with Path(os.environ["MUTANT_LOG"]).open("a") as log:
                log.write(f"{setup.post.decoder}\t{_current[-1] if _current else ''}\n")
            return make(setup)

        decoders.make_decoder = recorded
    elif DECODER:
        module = importlib.import_module(DECODERS[DECODER].partition(":")[0])
        if KIND == "sigmoid":
            for name in {"sigmoid", "softmax"} & vars(module).keys():
                setattr(module, name, lambda values: values)
        else:
            module.build = broken(module.build)  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test runs."""
    _current.append(item.nodeid)


sys.modules.setdefault("_mutants", sys.modules[__name__])
