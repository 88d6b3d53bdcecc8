"""Label lists of heads that everybody knows, for files that carry none; always marked *assumed*."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Source: COCO 2017 detection categories, in the order of their ids.
_COCO = """
person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,
fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,
bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,
sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,
wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,
hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,
mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,
vase,scissors,teddy bear,hair drier,toothbrush
"""
# Source: COCO's ids, which have gaps: those of 1 to 90 that no category has.
_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _with_gaps() -> tuple[str, ...]:
    names = iter(_names(_COCO))
    return tuple("" if number in _GAPS else next(names) for number in range(1, 91))


LABEL_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"coco80": _names(_COCO), "coco90": _with_gaps(), "coco91": ("", *_with_gaps())}
)
"""``coco80``: without gaps. ``coco90``: id 1 first, unused ids empty. ``coco91``: a background in front."""


def assumed_labels(classes: int) -> tuple[str, tuple[str, ...]]:
    """Return the name and the labels of the set with so many classes; empty where there is none.

    >>> assumed_labels(80)[0], assumed_labels(7)
    ('coco80', ('', ()))
    """
    for name, labels in LABEL_SETS.items():
        if len(labels) == classes:
            return name, labels
    return "", ()
