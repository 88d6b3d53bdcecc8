"""What is on the buses: device tree, DMI, USB and PCI devices, device nodes."""

from __future__ import annotations

from collections.abc import Iterator
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
    """A device on USB: ``id`` such as ``1a6e:089a``, ``node`` its device file; speed 0 if unknown."""

    path: str
    id: str
    node: str
    speed_mbps: int

    @property
    def where(self) -> str:
        """Bus, id and address, for messages."""
        return f"USB {self.id} at {self.path.rsplit('/', 1)[-1]}"


@dataclass(frozen=True)
class PciDevice:
    """A device on PCI: ``id`` such as ``8086:7d1d``, ``kind`` its class such as 0x120000."""

    path: str
    id: str
    kind: int
    driver: str

    @property
    def where(self) -> str:
        """Bus, id and address, for messages."""
        return f"PCI {self.id} at {self.path.rsplit('/', 1)[-1]}"


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
        names = {key: text[:100] for key in _DMI_KEYS if (text := tree.text(f"{folder}/{key}"))}
        if names:
            return names
    return {}


def usb(tree: Tree) -> tuple[UsbDevice, ...]:
    """Return the devices on USB, hubs included."""
    devices = []
    for path, device_id in _devices(tree, "usb", "idVendor", "idProduct"):
        bus, number = tree.number(f"{path}/busnum"), tree.number(f"{path}/devnum")
        node = f"/dev/bus/usb/{bus:03}/{number:03}" if bus is not None and number is not None else ""
        speed = tree.number(f"{path}/speed") or 0
        devices.append(UsbDevice(path, device_id, node, speed))
    return tuple(devices)


def pci(tree: Tree) -> tuple[PciDevice, ...]:
    """Return the devices on PCI with the driver that is bound to each."""
    return tuple(
        PciDevice(path, device_id, tree.hexadecimal(f"{path}/class") or 0, tree.link_name(f"{path}/driver"))
        for path, device_id in _devices(tree, "pci", "vendor", "device")
    )


def _devices(tree: Tree, bus: str, vendor_file: str, device_file: str) -> Iterator[tuple[str, str]]:
    """Yield (path, ``vendor:device``) of each device on a bus that has two valid ids."""
    for file in tree.names(f"/sys/bus/{bus}/devices/*/{vendor_file}"):
        path = file.rsplit("/", 1)[0]
        vendor, device = tree.hexadecimal(file), tree.hexadecimal(f"{path}/{device_file}")
        if vendor is not None and device is not None and max(vendor, device) <= 0xFFFF:
            yield path, f"{vendor:04x}:{device:04x}"


def nodes(tree: Tree) -> tuple[str, ...]:
    """Return the device files of accelerators, cameras and serial lines."""
    return tuple(path for pattern in _NODES for path in tree.names(pattern))
