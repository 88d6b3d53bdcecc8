"""What kind of machine this is: a board, a virtual machine, or a program that imitates another processor."""

from __future__ import annotations

import os
from typing import Literal

from edgekit.hardware.buses import device_tree, dmi
from edgekit.hardware.tree import Tree

Kind = Literal["board", "virtual", "emulated"]
_VIRTUAL = ("qemu", "kvm", "vmware", "virtualbox", "xen", "amazon ec2", "google compute engine", "openstack")


def machine_kind(tree: Tree, machine: str | None = None) -> Kind:
    """Return whether timings from here are a board's.

    ``emulated``: an emulator of programs translates the architecture, while /proc shows the real kernel's.
    ``machine`` is what the system calls itself (``uname -m``).
    """
    kernel = tree.text("/proc/sys/kernel/arch")
    if kernel and kernel != (machine or os.uname().machine):
        return "emulated"
    named = " ".join(dmi(tree).values()).lower()
    _, compatible = device_tree(tree)
    cpu_says_so = " hypervisor" in tree.text("/proc/cpuinfo")
    if cpu_says_so or "linux,dummy-virt" in compatible or any(name in named for name in _VIRTUAL):
        return "virtual"
    return "board"
