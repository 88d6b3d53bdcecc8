"""What is on the buses: device tree, DMI, USB and PCI devices, device nodes."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.hardware.tree import Tree

_DEVICE_TREES = ("/proc/device-tree", "/sys/firmware/devicetree/base")
_DMI_FOLDERS = ("/sys/class/dmi/id", "/sys/devices/virtual/dmi/id")
_DMI_KEYS = ("sys_vendor", "product_name", "board_name")
# Device files of accelerators, cameras and serial lines.
_NODES = (
    "/dev/apex_*",
    "/dev/accel/accel*",
    "/dev/dri/renderD*",
    "/dev/nvhost-gpu",
    "/dev/nvidiactl",
    "/dev/nvidia[0-9]*",
    "/dev/hailo*",
    "/dev/video*",
    "/dev/ttyACM*",
    "/dev/ttyUSB*",
)


@dataclass(frozen=True)
class UsbDevice:
    """A device on USB: ``id`` is ``1a6e:089a``, ``node`` its device file, 0 for an unknown speed."""

    path: str
    id: str
    node: str
    speed_mbps: int


@dataclass(frozen=True)
class PciDevice:
    """A device on PCI: ``id`` is ``8086:7d1d``, ``kind`` its class such as 0x120000."""

    path: str
    id: str
    kind: int
    driver: str


def device_tree(tree: Tree) -> tuple[str, tuple[str, ...]]:
    """Return the board's model and its compatible strings, the most specific first; empty if none."""
    for folder in _DEVICE_TREES:
        model = " ".join(" ".join(tree.strings(f"{folder}/model")[:1]).split())[:200]
        compatible = tree.strings(f"{folder}/compatible")[:32]
        if model or compatible:
            return model, tuple(name[:100] for name in compatible)
    return "", ()


def dmi(tree: Tree) -> dict[str, str]:
    """Return vendor, product and board of a PC; no serial numbers."""
    for folder in _DMI_FOLDERS:
        found = {key: text[:100] for key in _DMI_KEYS if (text := tree.text(f"{folder}/{key}"))}
        if found:
            return found
    return {}


def usb(tree: Tree) -> tuple[UsbDevice, ...]:
    """Return the devices on USB, hubs included."""
    found = []
    for file in tree.names("/sys/bus/usb/devices/*/idVendor"):
        path = file.rsplit("/", 1)[0]
        vendor, product = tree.hexadecimal(file), tree.hexadecimal(f"{path}/idProduct")
        if vendor is None or product is None or max(vendor, product) > 0xFFFF:
            continue
        bus, number = tree.number(f"{path}/busnum"), tree.number(f"{path}/devnum")
        node = f"/dev/bus/usb/{bus:03}/{number:03}" if bus is not None and number is not None else ""
        speed = tree.number(f"{path}/speed") or 0
        found.append(UsbDevice(path, f"{vendor:04x}:{product:04x}", node, speed))
    return tuple(found)


def pci(tree: Tree) -> tuple[PciDevice, ...]:
    """Return the devices on PCI with the driver that is bound to each."""
    found = []
    for file in tree.names("/sys/bus/pci/devices/*/vendor"):
        path = file.rsplit("/", 1)[0]
        vendor, device = tree.hexadecimal(file), tree.hexadecimal(f"{path}/device")
        if vendor is None or device is None or max(vendor, device) > 0xFFFF:
            continue
        kind = tree.hexadecimal(f"{path}/class") or 0
        driver = tree.link_name(f"{path}/driver")
        found.append(PciDevice(path, f"{vendor:04x}:{device:04x}", kind, driver))
    return tuple(found)


def nodes(tree: Tree) -> tuple[str, ...]:
    """Return the device files of accelerators, cameras and serial lines."""
    return tuple(path for pattern in _NODES for path in tree.names(pattern))
