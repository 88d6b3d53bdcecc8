"""Google Coral Edge TPU: the USB accelerator, and the PCIe, M.2 and soldered modules."""

from __future__ import annotations

from edgekit.core.spec import AcceleratorFact, Level
from edgekit.hardware import accelerator_checks as checks
from edgekit.hardware.accelerator_checks import Detection, Machine
from edgekit.hardware.buses import PciDevice
from edgekit.hardware.tree import Tree

# Before the first use the stick shows Global Unichip's id; loading its firmware makes it Google's.
USB_IDS = ("1a6e:089a", "18d1:9302")
PCI_ID = "1ac1:089a"
_USB3_MBPS = 5000
_UDEV_FIX = (
    'add to /etc/udev/rules.d/99-edgetpu.rules: SUBSYSTEM=="usb", ATTRS{idVendor}=="1a6e", '
    'GROUP="plugdev" and the same for "18d1"; then sudo udevadm control --reload, '
    'sudo usermod -aG plugdev "$USER", log in again, plug the stick in again'
)
_LIBRARY_FIX = (
    "install libedgetpu1-std built for your LiteRT version (Google's 16.0 of 2021 crashes "
    "with TensorFlow Lite 2.12 and newer)"
)
_GASKET_FIX = "install gasket-dkms, add 'apex' to /etc/modules, reboot"


def find(machine: Machine) -> Detection:
    """Return each Edge TPU with its checks, and warnings."""
    tree = machine.tree
    sticks = [device for device in machine.usb if device.id in USB_IDS]
    cards = [device for device in machine.pci if device.id == PCI_ID]
    if not sticks and not cards:
        return [], []
    runtime = checks.library(machine.find_library("libedgetpu.so.1*"), "libedgetpu.so.1", _LIBRARY_FIX)
    facts = [
        checks.usb_stick("edgetpu", "Coral USB Accelerator", tree, stick, _UDEV_FIX, runtime)
        for stick in sticks
    ]
    facts += [_card(tree, card, number, runtime) for number, card in enumerate(cards)]
    return facts, [
        f"Coral USB at {s.path.rsplit('/', 1)[-1]} runs at {s.speed_mbps} Mbit/s (USB 2); "
        "fix: use a USB 3 port (blue) and the cable that came with it"
        for s in sticks
        if 0 < s.speed_mbps < _USB3_MBPS
    ]


def _card(tree: Tree, card: PciDevice, number: int, runtime: Level) -> AcceleratorFact:
    own = tree.names(f"{card.path}/apex/apex_*")
    node = f"/dev/{own[0].rsplit('/', 1)[-1]}" if own else f"/dev/apex_{number}"
    has_node = tree.exists(node)
    detail = f"{node}, driver {card.driver or 'unknown'}"
    if not has_node:
        bound = f"driver '{card.driver}' is bound" if card.driver else "no driver is bound"
        detail = f"no {node}: {bound}, wanted apex (gasket)"
    levels = (
        checks.present(card.where),
        checks.driver(has_node, detail, _GASKET_FIX),
        checks.permission(tree, node),
        runtime,
    )
    attributes = {"bus": "pci", "id": card.id, "node": node if has_node else "", "driver": card.driver}
    return checks.fact("edgetpu", "Coral Edge TPU (PCIe)", levels, attributes)
