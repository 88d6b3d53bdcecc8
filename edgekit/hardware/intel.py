"""Intel: Myriad X sticks, the NPU of Core Ultra processors, the integrated GPU."""

from __future__ import annotations

from itertools import zip_longest

from edgekit.core.spec import AcceleratorFact, Level
from edgekit.hardware import accelerator_checks as checks
from edgekit.hardware.accelerator_checks import Detection, Machine
from edgekit.hardware.buses import PciDevice
from edgekit.hardware.tree import Tree

MYRIAD_IDS = {"03e7:2485": " (not booted)", "03e7:f63b": " (booted)"}
_OLD_STICK_ID = "03e7:2150"
# Meteor, Arrow, Lunar and Panther Lake. Source: Linux, drivers/accel/ivpu/ivpu_drv.h.
NPU_IDS = ("8086:7d1d", "8086:ad1d", "8086:643e", "8086:b03e")
NPU_DRIVER = "intel_vpu"
_INTEL = 0x8086
_MYRIAD_WORKERS = (
    "/opt/edgekit/myriad/bin/python3",
    "/opt/edgekit/myriad/bin/python",
    "/opt/intel/openvino_2021*/deployment_tools/inference_engine/lib/intel64/libmyriadPlugin.so",
    "/opt/intel/openvino_2022*/runtime/lib/*/libopenvino_intel_myriad_plugin.so",
)
_MYRIAD_FIX = (
    "OpenVINO dropped the stick after 2022.3: install openvino==2021.4.2 into a virtual environment "
    "of Python 3.6 to 3.9 at /opt/edgekit/myriad (x86-64), or the 2022.3.1 archive below /opt/intel"
)
_UDEV_FIX = (
    'add to /etc/udev/rules.d/97-myriad.rules: SUBSYSTEM=="usb", ATTRS{idVendor}=="03e7", '
    'GROUP="plugdev"; then sudo udevadm control --reload, sudo usermod -aG plugdev "$USER", '
    "log in again, plug the stick in again"
)
_NPU_DRIVER_FIX = "boot Linux 6.6 or newer with CONFIG_DRM_ACCEL_IVPU and its firmware (linux-firmware)"
_NPU_LIBRARY_FIX = "install Intel's user-mode NPU driver (intel-level-zero-npu, intel-driver-compiler-npu)"
_GPU_FIX = "install intel-opencl-icd and ocl-icd-libopencl1"


def myriad(machine: Machine) -> Detection:
    """Return each Myriad X with its checks, and warnings."""
    tree, usb = machine.tree, machine.usb
    sticks = [device for device in usb if device.id in MYRIAD_IDS]
    warnings = [
        "Neural Compute Stick 1 (03e7:2150) found: its runtime ended with OpenVINO 2020.3, edgekit has none"
        for device in usb
        if device.id == _OLD_STICK_ID
    ]
    if not sticks:
        return [], warnings
    warnings.append(
        "a Luxonis OAK camera shows the same USB id as a Neural Compute Stick 2; edgekit opens either"
    )
    worker = next((paths[0] for pattern in _MYRIAD_WORKERS if (paths := tree.names(pattern))), "")
    runtime = checks.library(worker, "a runtime with the MYRIAD plugin", _MYRIAD_FIX)
    return [
        checks.usb_stick(
            "myriad", "Intel Movidius Myriad X", tree, stick, _UDEV_FIX, runtime, note=MYRIAD_IDS[stick.id]
        )
        for stick in sticks
    ], warnings


def npu(machine: Machine) -> Detection:
    """Return each Intel NPU with its checks, and a warning for each accelerator node of another driver.

    Several vendors' drivers share the ``accel`` class.
    """
    tree = machine.tree
    nodes = {path: tree.link_name(f"{path}/device/driver") for path in tree.names("/sys/class/accel/accel*")}
    ours = [path for path, name in nodes.items() if name == NPU_DRIVER]
    others = [
        f"/dev/accel/{path.rsplit('/', 1)[-1]} belongs to driver '{name}', which no backend of edgekit uses"
        for path, name in nodes.items()
        if name not in {NPU_DRIVER, ""}
    ]
    chips = [device for device in machine.pci if device.id in NPU_IDS]
    library = checks.library(
        machine.find_library("libze_intel_npu.so*"), "libze_intel_npu.so", _NPU_LIBRARY_FIX
    )
    return [_npu(tree, chip, path, library) for chip, path in zip_longest(chips, ours)], others


def _npu(tree: Tree, chip: PciDevice | None, class_path: str | None, library: Level) -> AcceleratorFact:
    node = f"/dev/accel/{class_path.rsplit('/', 1)[-1]}" if class_path else ""
    where = chip.where if chip else class_path or ""
    detail = f"{NPU_DRIVER}, {node}"
    if not class_path:
        bound = f"driver '{chip.driver}' is bound" if chip and chip.driver else "no driver is bound"
        detail = f"{bound}, wanted {NPU_DRIVER}"
    levels = (
        checks.present(where),
        checks.driver(bool(class_path), detail, _NPU_DRIVER_FIX),
        checks.permission(tree, node),
        library,
    )
    attributes = {"bus": "pci", "id": chip.id if chip else "", "node": node}
    return checks.fact("npu", "Intel NPU", levels, attributes)


def gpu(machine: Machine) -> Detection:
    """Return each Intel GPU with a render node, with its checks."""
    tree = machine.tree
    facts = []
    for path in tree.names("/sys/class/drm/renderD*"):
        if tree.hexadecimal(f"{path}/device/vendor") != _INTEL:
            continue
        node = f"/dev/dri/{path.rsplit('/', 1)[-1]}"
        name = tree.link_name(f"{path}/device/driver")
        loader = machine.find_library("libOpenCL.so.1*")
        driver = tree.names("/etc/OpenCL/vendors/intel*.icd")
        levels = (
            checks.present(path),
            checks.driver(tree.exists(node), f"{name or 'unknown driver'}, {node}", "load i915 or xe"),
            checks.permission(tree, node),
            checks.library(driver[0] if loader and driver else "", "Intel's OpenCL driver", _GPU_FIX),
        )
        facts.append(checks.fact("openvino-gpu", "Intel GPU", levels, {"bus": "pci", "node": node}))
    return facts, []
