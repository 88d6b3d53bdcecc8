# ruff: noqa: INP001 - a user's folder, no package
"""Recognise what you have shown before: an embedding model and a gallery that stays on the device.

edgekit import mobilefacenet.onnx -o faces.bundle --decoder embed mean=127.5 std=127.5
python who.py faces.bundle known/ stranger.jpg      # known/ has a folder of pictures for each name
"""

from __future__ import annotations

import sys
from pathlib import Path

import edgekit


def main(bundle: str, known: str, picture: str) -> str:
    """Make a gallery of the folders below ``known`` and return the picture's name, or "unknown"."""
    path = Path(known).with_suffix(".gallery.json")
    with edgekit.load(bundle) as model:
        gallery = model.gallery()
        for folder in sorted(entry for entry in Path(known).iterdir() if entry.is_dir()):
            for shown in sorted(folder.iterdir()):
                gallery.add(folder.name, model.predict(shown).items[0].vector)
        gallery.save(path)
    with edgekit.load(bundle, gallery=path) as model:
        item = model.predict(picture).items[0]
    print(f"{picture}: {item.label}")
    return item.label


if __name__ == "__main__":
    main(*sys.argv[1:])
