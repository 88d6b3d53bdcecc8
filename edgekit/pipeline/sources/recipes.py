"""Ready command lines that decode in hardware, for the source ``command``, and whether they work here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_GST = "gst-launch-1.0 -q rtspsrc location={uri} latency=100 ! decodebin"
_GST_END = "video/x-raw,format=BGR,width={width},height={height} ! fdsink fd=1"
_FFMPEG = "ffmpeg -nostdin -loglevel error -rtsp_transport tcp -fflags nobuffer"
_FFMPEG_END = "-an -s {width}x{height} -pix_fmt bgr24 -f rawvideo -"
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Recipe:
    """A command line: its words, what decodes, and what must be there for it.

    ``lists``: a command whose output names the decoder ``decoder``. ``nodes``: device nodes, one of which
    must be there (globs). ``was_run``: whether it has run on the hardware it is for.
    """

    words: tuple[str, ...]
    title: str
    lists: tuple[str, ...]
    decoder: str
    nodes: tuple[str, ...] = ()
    was_run: bool = False


def _ffmpeg(middle: str) -> tuple[str, ...]:
    return tuple(f"{_FFMPEG} {middle} {_FFMPEG_END}".split())


_DECODERS = ("ffmpeg", "-hide_banner", "-decoders")

RECIPES: dict[str, Recipe] = {
    "gstreamer": Recipe(
        tuple(f"{_GST} ! videoconvert ! videoscale ! {_GST_END}".split()),
        "GStreamer with whatever decoder it ranks first; software on a PC",
        ("gst-inspect-1.0", "decodebin"),
        "decodebin",
        was_run=True,
    ),
    "pi4-h264": Recipe(
        _ffmpeg("-c:v h264_v4l2m2m -i {uri}"),
        "Raspberry Pi 4: H.264 in the VideoCore",
        _DECODERS,
        "h264_v4l2m2m",
        ("dev/video10",),
    ),
    "pi5-h265": Recipe(
        _ffmpeg("-hwaccel drm -c:v hevc -i {uri} -vf hwdownload,format=nv12"),
        "Raspberry Pi 5: H.265 alone, it has no other decoder (Raspberry Pi OS's ffmpeg)",
        ("ffmpeg", "-hide_banner", "-hwaccels"),
        "drm",
        ("dev/video19",),
    ),
    "jetson": Recipe(
        tuple(
            f"{_GST} ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! videoscale ! {_GST_END}".split()
        ),
        "Jetson: nvv4l2decoder",
        ("gst-inspect-1.0", "nvv4l2decoder"),
        "nvv4l2decoder",
        ("dev/nvhost-nvdec", "dev/v4l2-nvdec", "dev/dri/renderD128"),
    ),
    "intel": Recipe(
        _ffmpeg("-hwaccel vaapi -hwaccel_output_format vaapi -i {uri} -vf hwdownload,format=nv12"),
        "Intel graphics: VA-API",
        ("ffmpeg", "-hide_banner", "-hwaccels"),
        "vaapi",
        ("dev/dri/renderD*",),
    ),
}


def filled_in(words: Sequence[str], uri: str, width: int, height: int) -> list[str]:
    """Return a command's words, with an address and a size put in."""
    values = {"{uri}": uri, "{width}": str(width), "{height}": str(height)}
    return [_replaced(word, values) for word in words]


def _replaced(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


@dataclass(frozen=True)
class DecoderRow:
    """Whether a recipe works on this machine, and why not. ``was_run``: see ``Recipe``."""

    name: str
    title: str
    works: bool
    reason: str
    was_run: bool


def survey_decoders(root: Path = Path("/")) -> tuple[DecoderRow, ...]:
    """Return a row for each recipe: its program, its decoder in that program, its device below ``root``."""
    rows = []
    for name, recipe in RECIPES.items():
        problem = _missing_node(recipe, root) or (
            _problem(recipe) if root.resolve() == Path("/") else "not tried: captured facts"
        )
        rows.append(DecoderRow(name, recipe.title, not problem, problem, recipe.was_run))
    return tuple(rows)


def _missing_node(recipe: Recipe, root: Path) -> str:
    if not recipe.nodes or any(list(root.glob(node)) for node in recipe.nodes):
        return ""
    return f"there is no /{' or /'.join(recipe.nodes)}"


def _problem(recipe: Recipe) -> str:
    if not shutil.which(recipe.words[0]):
        return f"{recipe.words[0]} is not installed"
    output = _output(recipe.lists)
    # gst-inspect describes the one element that it is asked for; ffmpeg lists them all
    is_there = recipe.decoder in output.split() if recipe.lists[0] == "ffmpeg" else bool(output)
    if not is_there:
        return f"this {recipe.words[0]} has no {recipe.decoder}"
    return ""


def _output(words: Sequence[str]) -> str:
    try:
        ran = subprocess.run(words, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 else ""
