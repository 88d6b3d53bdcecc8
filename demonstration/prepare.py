"""What the demonstration needs before it starts: zoo bundles and recordings, built once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from demonstration.story import Story
from edgekit_optimize.zoo.build import build
from edgekit_optimize.zoo.recipe import models_folder
from edgekit_optimize.zoo.recordings import recording

DETECTOR = "ssd-oidv4"
FACES = "blazeface"
MOTION = "imu-exercise"
FLOAT = ("litert-fp32", "onnxruntime-fp32", "openvino-fp32")


@dataclass(frozen=True)
class Material:
    """Bundles and recordings; ``bad`` is what a failed training run would have published."""

    first: Path
    better: Path
    bad: Path
    faces: Path
    motion: Path
    street_video: Path
    face_video: Path
    watch: Path


def prepare(folder: Path, story: Story) -> Material:
    """Build the bundles and fetch the recordings, or find them from the last time.

    Args:
        folder: Where bundles are kept.
        story: Told of each one that has to be built.
    """
    cache = folder / "packages"
    faces, face_video = prepare_faces(folder, story)
    return Material(
        first=_bundle(folder, story, DETECTOR, "1.0.0", FLOAT),
        better=_bundle(folder, story, DETECTOR, "2.0.0"),
        bad=_bad(folder, cache, story),
        faces=faces,
        motion=_bundle(folder, story, MOTION, "1.0.0"),
        street_video=recording("bikes", cache),
        face_video=face_video,
        watch=recording("watch", cache),
    )


def prepare_faces(folder: Path, story: Story) -> tuple[Path, Path]:
    """Return the bundle of the face detector and a recording of a face; arguments as for ``prepare``."""
    return _bundle(folder, story, FACES, "1.0.0"), recording("carphone", folder / "packages")


def _bundle(
    folder: Path, story: Story, name: str, version: str, variants: tuple[str, ...] | None = None
) -> Path:
    target = folder / f"{name}-{version}"
    if not (target / "bundle.json").is_file():
        story.say(f"building {name} {version} from its pinned package")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        build(name, folder, version=version, variants=variants, cache=folder / "packages")
    return target


def _bad(folder: Path, cache: Path, story: Story) -> Path:
    target = folder / f"{DETECTOR}-3.0.0"
    if not (target / "bundle.json").is_file():
        story.say(f"spoiling {DETECTOR} 3.0.0, as a bad training run would")
        shutil.rmtree(target, ignore_errors=True)
        script = models_folder() / DETECTOR / "bad.py"
        words = ("-o", folder, "--version", "3.0.0", "--cache", cache)
        subprocess.run([sys.executable, script, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return target
