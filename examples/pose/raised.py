# ruff: noqa: INP001 - a user's folder, no package
"""Who raises a hand: a pose model's keypoints by name.

edgekit import yolo11n-pose.onnx -o pose.bundle
python raised.py pose.bundle people.jpg
"""

from __future__ import annotations

import sys

import edgekit

SIDES = ("left", "right")


def main(bundle: str, picture: str) -> int:
    """Print, for each person, which hand is above its shoulder; return how many raise one."""
    raised = 0
    with edgekit.load(bundle) as model:
        for number, person in enumerate(model.predict(picture).items, 1):
            height = {name: y for name, (_, y) in zip(person.point_names, person.points, strict=True)}
            hands = [side for side in SIDES if height[f"{side} wrist"] < height[f"{side} shoulder"]]
            print(f"person {number}: {' and '.join(hands) or 'no'} hand raised")
            raised += bool(hands)
    return raised


if __name__ == "__main__":
    main(*sys.argv[1:])
