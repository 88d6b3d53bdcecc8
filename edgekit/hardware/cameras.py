"""Cameras that are attached to this machine, by what the kernel says of them; nothing is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.hardware.tree import Tree

# Drivers of the receivers that sensors on a ribbon cable hang on; other nodes are codecs and scalers.
_RECEIVERS = frozenset(
    {
        "unicam",
        "bcm2835-unicam",
        "rp1-cfe",
        "tegra-video",
        "tegra-camrtc-capture-vi",
        "imx7-csi",
        "mxc-isi",
        "rkisp1",
        "sun6i-csi",
    }
)
_SENSOR = re.compile(r"(?:imx|ov|gc|ar|mt9)\w+", re.IGNORECASE)


@dataclass(frozen=True)
class LocalCamera:
    """A camera on USB, or a sensor on a ribbon cable (CSI).

    ``uri`` is what a pipeline names: for USB the link by its maker, model and serial number, where there is
    one. ``problem`` says why it cannot be used.
    """

    kind: Literal["usb", "csi"]
    name: str
    node: str
    uri: str
    driver: str
    problem: str = ""


def local_cameras(root: Path = Path("/")) -> tuple[LocalCamera, ...]:
    """Return the cameras of the machine whose files are below ``root``, in order of their nodes."""
    tree = Tree(root)
    links = {tree.link_name(path): path for path in tree.names("/dev/v4l/by-id/*")}
    rows = (_camera(tree, path, links) for path in tree.names("/sys/class/video4linux/video*"))
    return tuple(row for row in rows if row is not None)


def _camera(tree: Tree, path: str, links: dict[str, str]) -> LocalCamera | None:
    node = f"/dev/{path.rpartition('/')[2]}"
    driver = tree.link_name(f"{path}/device/driver")
    if tree.number(f"{path}/index"):  # a camera's second node gives metadata, or nothing
        return None
    name = tree.text(f"{path}/name")[:64]
    if driver == "uvcvideo" or tree.link_name(f"{path}/device/subsystem") == "usb":
        uri = links.get(node.removeprefix("/dev/"), node)
        return LocalCamera("usb", name, node, uri, driver, _problem(tree, node))
    if driver in _RECEIVERS:
        return LocalCamera("csi", _sensor(tree) or name, node, node, driver, _problem(tree, node))
    return None


def _problem(tree: Tree, node: str) -> str:
    access = tree.access(node)
    if not access.exists:
        return f"there is no {node}"
    return "" if access.is_usable else f"this user may not open {node} (group '{access.group or 'video'}')"


def _sensor(tree: Tree) -> str:
    names = (tree.text(f"{path}/name") for path in tree.names("/sys/class/video4linux/v4l-subdev*"))
    return next((name.split()[0] for name in names if _SENSOR.match(name)), "")
