"""A pipeline of one model without a TOML file: ``edgekit run BUNDLE --source FILE|CAMERA --sink video``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.core.addresses import shown
from edgekit.core.errors import UsageError
from edgekit.pipeline.config import PipelineConfig, checked_config
from edgekit.pipeline.picture_files import SUFFIXES

_KINDS = {".csv": "table", ".npz": "table", ".wav": "audio", ".flac": "audio"}
_PATHS = {"video": "{stem}-seen.mp4", "jsonl": "{stem}-seen.jsonl"}
_PLAYING: Mapping[str, Mapping[str, Any]] = {
    "video": {"realtime": True, "loop": True},
    "images": {"loop": True, "fps": 1.0},
}
_CAMERA = re.compile(r"\d{1,3}|/dev/video\S*")


def quick_config(
    model: Path, source: str, sinks: Sequence[str] = (), *, plays_on: bool = False
) -> PipelineConfig:
    """Return the pipeline of a bundle, a source and sinks.

    >>> quick_config(Path("yolo.bundle"), "0", ["video:seen.mp4"]).source.kind
    'camera'

    Args:
        model: The bundle.
        source: A camera's number or device node, an address, a video, a picture, or a folder of pictures.
        sinks: ``KIND`` or ``KIND:PATH``; without a path the file is written into the working folder, named
            after the source.
        plays_on: A video or pictures are given at their own pace, as a camera would, again and again.

    Raises:
        UsageError: The source is neither a camera nor there, or a sink needs what only a TOML file can say.
        ConfigError: There is no such kind of source or sink.
    """
    name = shown(source) if "://" in source else source  # no password in a file's name
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem or "camera").strip("-") or "source"
    kind = source_kind(source)
    document = {
        "pipeline": {"name": _name(model.stem), "model": str(model.resolve())},
        "source": {"kind": kind, "uri": _uri(source), **(_PLAYING.get(kind, {}) if plays_on else {})},
        "sink": [_sink(word, stem) for word in sinks],
    }
    return checked_config(document, f"--source {name}")


def source_kind(source: str) -> str:
    """Return the kind of source that a word of the command line means.

    >>> [source_kind(word) for word in ("0", "/dev/video2", "rtsp://door/1")]
    ['camera', 'camera', 'rtsp']

    Raises:
        UsageError: There is no such file.
    """
    if _CAMERA.fullmatch(source):
        return "camera"
    if "://" in source:
        return "rtsp" if source.startswith("rtsp") else "http"
    path = Path(source)
    if not path.exists():
        raise UsageError(
            f"--source {source}: there is no such file",
            hint="give a file, a folder of pictures, or a camera: 0",
        )
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return "images"
    return _KINDS.get(path.suffix.lower(), "video")


def _uri(source: str) -> str:
    return source if "://" in source or _CAMERA.fullmatch(source) else str(Path(source).resolve())


def _sink(word: str, stem: str) -> dict[str, str]:
    kind, _, path = word.partition(":")
    if kind not in _PATHS:
        raise UsageError(
            f"--sink {word}: want one of {', '.join(_PATHS)}, with :PATH or without",
            hint="other sinks have settings: write a pipeline's TOML file (docs/pipelines.md)",
        )
    return {"kind": kind, "path": str(Path(path or _PATHS[kind].format(stem=stem)))}


def _name(stem: str) -> str:
    plain = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64]
    return plain.strip("-._") or "pipeline"
