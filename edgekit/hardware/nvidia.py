"""NVIDIA: the GPU of Jetson modules, discrete GPUs, JetPack, power mode."""

from __future__ import annotations

import re

from edgekit.core.spec import AcceleratorFact
from edgekit.hardware import accelerator_checks as checks
from edgekit.hardware.accelerator_checks import Detection, Machine
from edgekit.hardware.tree import Tree

# Chip in the device tree's compatible strings: CUDA compute capability.
# Source: NVIDIA's CUDA GPUs page; tegra numbers as in Linux arch/arm64/boot/dts/nvidia.
_TEGRA = {
    "nvidia,tegra210": ("Jetson Nano / TX1 GPU (Maxwell)", "5.3"),
    "nvidia,tegra186": ("Jetson TX2 GPU (Pascal)", "6.2"),
    "nvidia,tegra194": ("Jetson Xavier GPU (Volta)", "7.2"),
    "nvidia,tegra234": ("Jetson Orin GPU (Ampere)", "8.7"),
    "nvidia,tegra264": ("Jetson Thor GPU (Blackwell)", "11.0"),
}
# L4T release in /etc/nv_tegra_release: JetPack; the first row that is not newer applies.
# Source: NVIDIA's JetPack archive.
_JETPACKS = (
    ((39, 2), "7.2"),
    ((38, 4), "7.1"),
    ((38, 0), "7.0"),
    ((36, 5), "6.2.2"),
    ((36, 4, 4), "6.2.1"),
    ((36, 4, 3), "6.2"),
    ((36, 4), "6.1"),
    ((36, 3), "6.0"),
    ((36, 0), "6"),
    ((35, 0), "5"),
    ((32, 0), "4"),
)
_NVIDIA = "10de:"
_DISPLAY = 0x03
_DRIVER_NODES = ("/dev/nvhost-gpu", "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvgpu/igpu0/as")
_JETPACK_FIX = "install JetPack's packages: sudo apt install nvidia-jetpack"
_TENSORRT_FIX = "sudo apt install tensorrt python3-libnvinfer (from JetPack or NVIDIA's CUDA repository)"


def jetpack(tree: Tree) -> str:
    """Return the JetPack release, such as ``6.2``; empty if this is no Jetson or it is unknown."""
    text = tree.text("/etc/nv_tegra_release")
    match = re.match(r"#\s*R([0-9]{1,4})\s.*?REVISION:\s*([0-9]{1,4})(?:\.([0-9]{1,4}))?", text)
    if not match:
        return ""
    release = tuple(int(part or 0) for part in match.groups())
    return next((name for least, name in _JETPACKS if release >= least), "")


def power_mode(tree: Tree) -> str:
    """Return the name of a Jetson's power mode, such as ``15W``; empty if unknown."""
    current = re.search(r"pmode:([0-9]{1,4})", tree.text("/var/lib/nvpmodel/status"))
    if not current:
        return ""
    modes = re.findall(
        r"<\s*POWER_MODEL\s+ID=([0-9]{1,4})\s+NAME=(\S{1,40})\s*>", tree.text("/etc/nvpmodel.conf")
    )
    names: dict[int, str] = {int(number): name for number, name in modes}
    return names.get(int(current.group(1)), str(int(current.group(1))))


def card_name(tree: Tree) -> str:
    """Return the driver's name of the first card, such as ``NVIDIA H100 80GB HBM3``."""
    for path in tree.names("/proc/driver/nvidia/gpus/*/information"):
        if match := re.search(r"^Model:\s*(\S.{0,79})$", tree.text(path), re.MULTILINE):
            return match.group(1).strip()
    return "NVIDIA GPU"


def driver_version(tree: Tree) -> str:
    """Return the version of the kernel driver, such as ``580.159.04``; empty if unknown."""
    text = tree.text("/sys/module/nvidia/version") or tree.text("/proc/driver/nvidia/version")
    match = re.search(r"\b([0-9]{3}(?:\.[0-9]{1,4}){1,2})\b", text)
    return match.group(1) if match else ""


def find(machine: Machine) -> Detection:
    """Return CUDA and TensorRT for an NVIDIA GPU, each with its checks, and warnings."""
    tree = machine.tree
    chip = next((name for name in machine.compatible if name in _TEGRA), "")
    cards = [d.where for d in machine.pci if d.id.startswith(_NVIDIA) and d.kind >> 16 == _DISPLAY]
    cards += tree.names("/dev/nvidia[0-9]")  # a container may have the device without its bus
    if not chip and not cards:
        return [], []
    name, compute = _TEGRA.get(chip, (card_name(tree), ""))
    where = f"device tree {chip}" if chip else cards[0]
    node = next((path for path in _DRIVER_NODES if tree.exists(path)), "")
    attributes = {
        "compute": compute,
        "node": node,
        "driver": driver_version(tree),
        "power_mode": power_mode(tree) if chip else "",
    }
    warnings = []
    if chip and not jetpack(tree):
        warnings.append(f"this Jetson has no readable /etc/nv_tegra_release; fix: {_JETPACK_FIX}")
    return _runtimes(machine, name, where, node, attributes), warnings


def _runtimes(
    machine: Machine, name: str, where: str, node: str, attributes: dict[str, str]
) -> list[AcceleratorFact]:
    tree = machine.tree
    shared = (
        checks.present(where),
        checks.driver(
            bool(node),
            node or f"no {' or '.join(_DRIVER_NODES[:2])}",
            "install NVIDIA's driver, or give the container the GPU",
        ),
        checks.permission(tree, node),
    )
    cuda = checks.library(machine.find_library("libcuda.so.1*"), "libcuda.so.1", _JETPACK_FIX)
    engine = machine.find_library("libnvinfer.so.*")
    bindings = tree.names("/usr/lib/python3*/dist-packages/tensorrt/__init__.py")
    lacking = "TensorRT's Python binding" if engine and not bindings else "TensorRT (libnvinfer)"
    tensorrt = checks.library(engine if bindings else "", lacking, _TENSORRT_FIX)
    return [
        checks.fact("tensorrt", name, (*shared, tensorrt), attributes),
        checks.fact("cuda", name, (*shared, cuda), attributes),
    ]
