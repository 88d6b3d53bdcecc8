"""The checks from "on the bus" to "library installed"; each reports its own result and a fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.base.accelerators import Accelerator
from edgekit.core.spec import AcceleratorFact, AcceleratorKind, Level
from edgekit.hardware.buses import PciDevice, UsbDevice
from edgekit.hardware.tree import Tree

# Where Debian, Ubuntu, JetPack, Intel and hand-made installations put shared libraries.
_LIBRARY_FOLDERS = (
    "/usr/local/lib",
    "/usr/lib/{arch}-linux-gnu",
    "/usr/lib/{arch}-linux-gnu/tegra",
    "/usr/lib/{arch}-linux-gnu/nvidia",
    "/lib/{arch}-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/edgekit/lib",
)


@dataclass(frozen=True)
class Machine:
    """What detectors read: the machine's files, and the devices on its buses."""

    tree: Tree
    arch: str
    compatible: tuple[str, ...] = ()
    usb: tuple[UsbDevice, ...] = ()
    pci: tuple[PciDevice, ...] = ()


Detection = tuple[list[AcceleratorFact], list[str]]
"""The accelerators that a detector found, and warnings."""


def find_by_row(row: Accelerator, machine: Machine) -> Detection:
    """Return each accelerator that matches a row's ids or device files, with its checks."""
    tree = machine.tree
    nodes = [node for pattern in row.nodes for node in tree.names(pattern)]
    devices = [(d.where, d.node, {"bus": "usb", "id": d.id}) for d in machine.usb if d.id in row.usb]
    devices += [
        (d.where, nodes[0] if nodes else "", {"bus": "pci", "id": d.id, "driver": d.driver})
        for d in machine.pci
        if d.id in row.pci
    ]
    if not (row.usb or row.pci):
        devices += [(node, node, {}) for node in nodes]
    facts = []
    for where, node, attributes in devices:
        has_node = bool(node) and tree.exists(node)
        detail = node if has_node else f"no device file {node or ' or '.join(row.nodes)}".rstrip()
        levels = [present(where), driver(has_node, detail, row.driver_fix)]
        levels.append(permission(tree, node, row.permission_fix))
        if row.library:
            path = find_library(tree, machine.arch, row.library)
            levels.append(library(path, row.library, row.library_fix))
        facts.append(fact(row.kind, row.title, tuple(levels), {**attributes, "node": node}))
    return facts, []


def find_library(tree: Tree, arch: str, pattern: str) -> str:
    """Return the path of a shared library whose file name matches a shell pattern; empty if none."""
    folders = [folder.format(arch=arch) for folder in _LIBRARY_FOLDERS] + _configured_folders(tree)
    for folder in folders:
        if found := tree.names(f"{folder}/{pattern}"):
            return found[0]
    return ""


def _configured_folders(tree: Tree) -> list[str]:
    """Return the folders in the dynamic linker's configuration."""
    text = "\n".join(tree.text(file) for file in tree.names("/etc/ld.so.conf.d/*.conf")[:64])
    return re.findall(r"^(/[\w./+-]{1,200})\s*$", text, re.MULTILINE)[:64]


def usb_stick(
    kind: AcceleratorKind,
    name: str,
    tree: Tree,
    stick: UsbDevice,
    permission_fix: str,
    runtime: Level,
    note: str = "",
) -> AcceleratorFact:
    """Return an accelerator on USB with its checks; ``runtime`` is that of its library."""
    has_node = bool(stick.node) and tree.exists(stick.node)
    levels = (
        present(stick.where + note),
        driver(
            has_node,
            stick.node if has_node else f"no device file {stick.node or 'below /dev/bus/usb'}",
            "give the container /dev/bus/usb, or plug the stick in again",
        ),
        permission(tree, stick.node, permission_fix),
        runtime,
    )
    speed = str(stick.speed_mbps) if stick.speed_mbps else ""
    attributes = {"bus": "usb", "id": stick.id, "node": stick.node, "speed_mbps": speed}
    return fact(kind, name, levels, attributes)


def present(detail: str) -> Level:
    """Return the check of a device that was seen."""
    return Level(name="present", ok=True, detail=detail)


def driver(ok: bool, detail: str, fix: str) -> Level:
    """Return the check of the kernel driver; ``fix`` is used only if it failed."""
    return Level(name="driver", ok=ok, detail=detail, fix="" if ok else fix)


def permission(tree: Tree, node: str, fix: str = "") -> Level:
    """Return the check of the right to use a device file."""
    if not node:
        return Level(name="permission", ok=False, detail="there is no device file to open")
    access = tree.access(node)
    if not access.exists:
        return Level(name="permission", ok=False, detail=f"{node} does not exist")
    if access.is_usable:
        return Level(name="permission", ok=True, detail=f"{node} is readable and writable")
    join = f'sudo usermod -aG {access.group} "$USER", then log in again'
    return Level(
        name="permission", ok=False, detail=f"no permission on {node} (group {access.group})", fix=fix or join
    )


def library(path: str, name: str, fix: str) -> Level:
    """Return the check of a vendor's library: its path, or what to install."""
    if path:
        return Level(name="library", ok=True, detail=path)
    return Level(name="library", ok=False, detail=f"{name} is not installed", fix=fix)


def fact(
    kind: AcceleratorKind, name: str, levels: tuple[Level, ...], attributes: dict[str, str]
) -> AcceleratorFact:
    """Return an accelerator; it is usable if every check passes, else the first that fails is the reason."""
    broken = next((level for level in levels if not level.ok), None)
    return AcceleratorFact(
        kind=kind,
        name=name,
        usable=broken is None,
        reason=broken.detail if broken else "",
        attributes={key: value for key, value in attributes.items() if value},
        levels=levels,
    )
