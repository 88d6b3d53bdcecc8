"""Finds out what a machine is and has, from its files alone.

Each accelerator is checked for presence on a bus, driver and device file, permission, and the vendor's
library. Whether it runs a model is proved later, by a backend in a child process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.base.accelerators import ROWS, Accelerator
from edgekit.base.plugins import load_target
from edgekit.core.spec import AcceleratorFact, Facts
from edgekit.hardware import accelerator_checks as checks
from edgekit.hardware import buses, cpu, nvidia
from edgekit.hardware.accelerator_checks import Machine, find_by_row
from edgekit.hardware.buses import PciDevice
from edgekit.hardware.tree import Tree

_ARCHITECTURES = ("aarch64", "x86_64")
# Accelerators without a backend, recognised to warn their owner.
_HAILO_IDS = ("1e60:2864", "1e60:45c4")
_ROCKCHIP = ("rockchip,rk3588", "rockchip,rk3576", "rockchip,rk3568", "rockchip,rk3566")


def detect(root: Path = Path("/"), rows: Sequence[Accelerator] = ROWS) -> Facts:
    """Return what this machine is, or the one whose files are below ``root``; never raises.

    Args:
        root: ``/``, or a folder with another machine's files.
        rows: The accelerators to look for.
    """
    return detect_in(Tree(root), rows)


def detect_in(tree: Tree, rows: Sequence[Accelerator] = ROWS) -> Facts:
    """Return what the machine of a tree is and has."""
    arch = cpu.architecture(tree)
    model, compatible = buses.device_tree(tree)
    dmi = buses.dmi(tree)
    usb, pci = buses.usb(tree), buses.pci(tree)
    total_mb, free_mb = cpu.memory_mb(tree)
    name = cpu.name(tree, arch)
    accelerators = [checks.fact("cpu", name or arch, (checks.present(name or arch),), {})]
    warnings = [*_arch_warnings(tree, arch), *_unused(pci, compatible)]
    machine = Machine(tree, arch, compatible, usb, pci)
    detectors = dict.fromkeys(row.detector for row in rows if row.detector)  # one finds several kinds
    for facts, more_warnings in (
        *(load_target(detector)(machine) for detector in detectors),
        *(find_by_row(row, machine) for row in rows if not row.detector),
    ):
        accelerators += facts
        warnings += more_warnings
    return Facts(
        arch=arch,
        board=model or " ".join(dmi[key] for key in ("sys_vendor", "product_name") if key in dmi),
        compatible=compatible,
        cpu=name,
        cores=cpu.cores(tree),
        cpu_features=cpu.features(tree, arch),
        memory_mb=total_mb,
        memory_free_mb=free_mb,
        usb=tuple(sorted({device.id for device in usb})),
        pci=tuple(sorted({device.id for device in pci})),
        nodes=buses.nodes(tree),
        dmi=dmi,
        jetpack=nvidia.jetpack(tree),
        accelerators=tuple(accelerators),
        warnings=(*warnings, *_broken(accelerators)),
    )


def _broken(accelerators: list[AcceleratorFact]) -> list[str]:
    """Return why each unusable accelerator is so, and the fix."""
    lines = []
    for accelerator in accelerators:
        for level in accelerator.levels:
            if not level.ok:
                fix = f"; fix: {level.fix}" if level.fix else ""
                lines.append(f"{accelerator.name} ({accelerator.kind}): {level.detail}{fix}")
                break
    return lines


def _arch_warnings(tree: Tree, arch: str) -> list[str]:
    if arch not in _ARCHITECTURES:
        return [f"edgekit runs on 64-bit ARM and x86, this is {arch}; fix: install a 64-bit system"]
    if tree.is_live and sys.maxsize < 2**32:
        return ["this Python is 32-bit, and the runtimes are 64-bit only; fix: install a 64-bit system"]
    return []


def _unused(pci: tuple[PciDevice, ...], compatible: tuple[str, ...]) -> list[str]:
    warnings = []
    if any(device.id in _HAILO_IDS for device in pci):
        warnings.append("a Hailo accelerator is here, and edgekit has no backend for it yet")
    if any(name in _ROCKCHIP for name in compatible):
        warnings.append("this board has a Rockchip NPU, and edgekit has no backend for it yet")
    return warnings
