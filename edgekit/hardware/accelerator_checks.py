"""The checks from "on the bus" to "library installed"; each reports its own result and a fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekit.base.accelerators import Accelerator
from edgekit.core.spec import AcceleratorFact, AcceleratorKind, Level
from edgekit.hardware.buses import PciDevice, UsbDevice
from edgekit.hardware.tree import Tree

# Where Debian, Ubuntu, JetPack, Intel, containers with an NVIDIA GPU, WSL and hand-made installations put
# shared libraries.
_LIBRARY_FOLDERS = (
    "/usr/local/lib",
    "/usr/lib/{arch}-linux-gnu",
    "/usr/lib/{arch}-linux-gnu/tegra",
    "/usr/lib/{arch}-linux-gnu/nvidia",
    "/lib/{arch}-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/edgekit/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
)


@dataclass(frozen=True)
class Machine:
    """What detectors read."""

    tree: Tree
    arch: str
    compatible: tuple[str, ...] = ()
    usb: tuple[UsbDevice, ...] = ()
    pci: tuple[PciDevice, ...] = ()

    def find_library(self, pattern: str) -> str:
        """Return the path of a shared library whose file name matches a shell pattern; empty if none."""
        text = "\n".join(self.tree.text(file) for file in self.tree.names("/etc/ld.so.conf.d/*.conf")[:64])
        configured = re.findall(r"^(/[\w./+-]{1,200})\s*$", text, re.MULTILINE)[:64]
        folders = [folder.format(arch=self.arch) for folder in _LIBRARY_FOLDERS] + configured
        return next((paths[0] for folder in folders if (paths := self.tree.names(f"{folder}/{pattern}"))), "")


Detection = tuple[list[AcceleratorFact], list[str]]
"""The accelerators that a detector found, and warnings."""


def find_by_row(row: Accelerator, machine: Machine) -> Detection:
    """Return each accelerator that matches a row's ids or device files, with its checks."""
    nodes = [node for pattern in row.nodes for node in machine.tree.names(pattern)]
    runtime = []
    if row.library:
        runtime.append(library(machine.find_library(row.library), row.library, row.library_fix))
    facts = [
        usb_stick(row.kind, row.title, machine.tree, stick, row.permission_fix, *runtime)
        for stick in machine.usb
        if stick.id in row.usb
    ]
    devices = [
        (d.where, nodes[0] if nodes else "", {"bus": "pci", "id": d.id, "driver": d.driver})
        for d in machine.pci
        if d.id in row.pci
    ]
    if not (row.usb or row.pci):
        devices = [(node, node, {}) for node in nodes]
    for where, node, attributes in devices:
        levels = (
            present(where),
            device_file(machine.tree, node, " or ".join(row.nodes), row.driver_fix),
            permission(machine.tree, node, row.permission_fix),
            *runtime,
        )
        facts.append(fact(row.kind, row.title, levels, {**attributes, "node": node}))
    return facts, []


def usb_stick(
    kind: AcceleratorKind,
    name: str,
    tree: Tree,
    stick: UsbDevice,
    permission_fix: str,
    *runtime: Level,
    note: str = "",
) -> AcceleratorFact:
    """Return an accelerator on USB with its checks; ``runtime`` is that of its library."""
    fix = "give the container /dev/bus/usb, or plug the stick in again"
    levels = (
        present(stick.where + note),
        device_file(tree, stick.node, "below /dev/bus/usb", fix),
        permission(tree, stick.node, permission_fix),
        *runtime,
    )
    speed = str(stick.speed_mbps) if stick.speed_mbps else ""
    attributes = {"bus": "usb", "id": stick.id, "node": stick.node, "speed_mbps": speed}
    return fact(kind, name, levels, attributes)


def present(detail: str) -> Level:
    """Return the check of a device that was seen."""
    return Level(name="present", ok=True, detail=detail)


def driver(ok: bool, detail: str, fix: str) -> Level:
    """Return the check of the kernel driver, with ``fix`` if it failed."""
    return Level(name="driver", ok=ok, detail=detail, fix="" if ok else fix)


def device_file(tree: Tree, node: str, expected: str, fix: str) -> Level:
    """Return the check of a kernel driver by its device file; ``expected`` is where one would be."""
    if node and tree.exists(node):
        return driver(ok=True, detail=node, fix="")
    return driver(ok=False, detail=f"no device file {node or expected}".rstrip(), fix=fix)


def permission(tree: Tree, node: str, fix: str = "") -> Level:
    """Return the check of the right to use a device file."""
    name = "permission"
    if not node:
        return Level(name=name, ok=False, detail="there is no device file to open")
    access = tree.access(node)
    if not access.exists:
        return Level(name=name, ok=False, detail=f"{node} does not exist")
    if access.is_usable:
        return Level(name=name, ok=True, detail=f"{node} is readable and writable")
    fix = fix or f'sudo usermod -aG {access.group} "$USER", then log in again'
    return Level(name=name, ok=False, detail=f"no permission on {node} (group {access.group})", fix=fix)


def library(path: str, name: str, fix: str) -> Level:
    """Return the check of a vendor's library: its path, or what to install."""
    if path:
        return Level(name="library", ok=True, detail=path)
    return Level(name="library", ok=False, detail=f"{name} is not installed", fix=fix)


def fact(
    kind: AcceleratorKind, name: str, levels: tuple[Level, ...], attributes: dict[str, str]
) -> AcceleratorFact:
    """Return an accelerator, usable if every check passes; else the first that fails is the reason."""
    broken = next((level for level in levels if not level.ok), None)
    return AcceleratorFact(
        kind=kind,
        name=name,
        usable=broken is None,
        reason=broken.detail if broken else "",
        attributes={key: value for key, value in attributes.items() if value},
        levels=levels,
    )
