"""Boards as files: what each shows below /proc, /sys and /dev, from documents and captures.

Sources: Linux arch/arm64/boot/dts (model and compatible), NVIDIA L4T device trees (module part
numbers), Coral's and Movidius' udev rules (USB ids), kernel documentation of the drivers named. A
value ``->name`` is a symbolic link.
"""

from pathlib import Path

Files = dict[str, str]

A72 = "asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
A78 = A76 + " uscat ilrcpc flagm paca pacg"


def arm_cpu(part: str, features: str, cores: int, implementer: str = "0x41") -> Files:
    """Return /proc and CPU files of an ARM machine, as Linux prints them."""
    block = (
        "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: {}\n"
        "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: {}\nCPU revision\t: 1\n\n"
    )
    text = "".join(block.format(n, features, implementer, part) for n in range(cores))
    return {
        "/proc/cpuinfo": text + "Serial\t\t: 10000000abcdef12\n",
        "/sys/devices/system/cpu/online": f"0-{cores - 1}\n",
        "/proc/sys/kernel/arch": "aarch64\n",
    }


def x86_cpu(vendor: str, model: str, flags: str, cores: int) -> Files:
    """Return /proc and CPU files of a PC, as Linux prints them."""
    block = "processor\t: {}\nvendor_id\t: {}\nmodel name\t: {}\nflags\t\t: fpu sse4_2 avx fma {}\n\n"
    return {
        "/proc/cpuinfo": "".join(block.format(n, vendor, model, flags) for n in range(cores)),
        "/sys/devices/system/cpu/online": f"0-{cores - 1}\n",
        "/proc/sys/kernel/arch": "x86_64\n",
    }


def memory(mib: int) -> Files:
    """Return /proc/meminfo with three quarters free."""
    kib = mib * 1024
    return {"/proc/meminfo": f"MemTotal:  {kib} kB\nMemFree: 1024 kB\nMemAvailable: {kib * 3 // 4} kB\n"}


def device_tree(model: str, *compatible: str) -> Files:
    """Return the device tree's root properties, NUL-terminated as the kernel gives them."""
    return {
        "/proc/device-tree/model": model + "\0",
        "/proc/device-tree/compatible": "".join(name + "\0" for name in compatible),
    }


def usb(port: str, vendor: str, product: str, speed: str = "5000", devnum: int = 2) -> Files:
    """Return one USB device and its device file."""
    folder = f"/sys/bus/usb/devices/{port}"
    return {
        f"{folder}/idVendor": vendor + "\n",
        f"{folder}/idProduct": product + "\n",
        f"{folder}/speed": speed + "\n",
        f"{folder}/busnum": "2\n",
        f"{folder}/devnum": f"{devnum}\n",
        f"/dev/bus/usb/002/{devnum:03}": "",
    }


def pci(slot: str, vendor: str, device: str, kind: str = "0x120000", driver: str = "") -> Files:
    """Return one PCI device."""
    folder = f"/sys/bus/pci/devices/{slot}"
    files = {
        f"{folder}/vendor": vendor + "\n",
        f"{folder}/device": device + "\n",
        f"{folder}/class": kind + "\n",
    }
    return files | ({f"{folder}/driver": f"->../../../bus/pci/drivers/{driver}"} if driver else {})


def accel(number: int, driver: str) -> Files:
    """Return a node of the compute accelerator class, which several drivers share."""
    return {
        f"/sys/class/accel/accel{number}/device/driver": f"->../../../bus/pci/drivers/{driver}",
        f"/dev/accel/accel{number}": "",
    }


PI_SENSORS: Files = {
    "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": "51234\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "2400000\n",
}
CORAL_STICK = usb("2-1", "1a6e", "089a")
EDGETPU_LIBRARY: Files = {"/usr/lib/aarch64-linux-gnu/libedgetpu.so.1": ""}
RPI4 = (
    device_tree("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b", "brcm,bcm2711")
    | arm_cpu("0xd08", A72, 4)
    | memory(3793)
    | PI_SENSORS
)
RPI5 = (
    device_tree("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712")
    | arm_cpu("0xd0b", A76, 4)
    | memory(8063)
    | PI_SENSORS
)
TENSORRT: Files = {
    "/usr/lib/aarch64-linux-gnu/libnvinfer.so.10": "",
    "/usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
}


def jetson(
    model: str, chip: str, *names: str, cores: int = 6, release: str = "R36 (release), REVISION: 4.3"
) -> Files:
    """Return a Jetson with its JetPack but without TensorRT."""
    part, implementer = ("0x004", "0x4e") if chip == "tegra194" else ("0xd42", "0x41")
    return (
        device_tree(model, *names, f"nvidia,{chip}")
        | arm_cpu(part, A78, cores, implementer)
        | memory(7620)
        | {
            "/etc/nv_tegra_release": f"# {release}, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
            "/dev/nvhost-gpu": "",
            "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1": "",
            "/var/lib/nvpmodel/status": "pmode:0001\n",
            "/etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n",
            "/sys/class/thermal/thermal_zone0/temp": "47500\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/name": "ina3221\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_label": "VDD_IN\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in1_input": "5000\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr1_input": "920\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/in2_input": "5000\n",
            "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3/curr2_input": "200\n",
        }
    )


ORIN_NANO = jetson(
    "NVIDIA Jetson Orin Nano Developer Kit",
    "tegra234",
    "nvidia,p3768-0000+p3767-0005-super",
    "nvidia,p3767-0005",
)
ORIN_NX = jetson(
    "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    "tegra234",
    "nvidia,p3768-0000+p3767-0000",
    cores=8,
)
AGX_ORIN = jetson(
    "NVIDIA Jetson AGX Orin Developer Kit", "tegra234", "nvidia,p3737-0000+p3701-0005", cores=12
)
XAVIER_NX = jetson(
    "NVIDIA Jetson Xavier NX Developer Kit",
    "tegra194",
    "nvidia,p3509-0000+p3668-0000",
    release="R35 (release), REVISION: 4.1",
)
DEV_BOARD = (
    device_tree("Freescale i.MX8MQ Phanbell", "google,imx8mq-phanbell", "fsl,imx8mq")
    | arm_cpu("0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid", 4)
    | memory(989)
    | pci("0000:01:00.0", "0x1ac1", "0x089a", "0x0880ff", "apex")
    | {"/dev/apex_0": "", "/sys/class/apex/apex_0/temp": "44800\n"}
    | EDGETPU_LIBRARY
)
CORE_ULTRA = (
    x86_cpu("GenuineIntel", "Intel(R) Core(TM) Ultra 7 155H", "avx2 avx_vnni", 16)
    | memory(31700)
    | {"/sys/class/dmi/id/sys_vendor": "LENOVO\n", "/sys/class/dmi/id/product_name": "21KC\n"}
    | pci("0000:00:0b.0", "0x8086", "0x7d1d", "0x120000", "intel_vpu")
    | accel(0, "intel_vpu")
    | {"/usr/lib/x86_64-linux-gnu/libze_intel_npu.so.1": ""}
)
INTEL_GPU: Files = {
    "/sys/class/drm/renderD128/device/vendor": "0x8086\n",
    "/sys/class/drm/renderD128/device/driver": "->../../bus/pci/drivers/i915",
    "/dev/dri/renderD128": "",
    "/usr/lib/x86_64-linux-gnu/libOpenCL.so.1": "",
    "/etc/OpenCL/vendors/intel.icd": "libigdrcl.so\n",
}
XEON = x86_cpu(
    "GenuineIntel", "Intel(R) Xeon(R) Gold 6430", "avx2 avx512f avx512_vnni amx_int8 amx_bf16", 8
) | memory(64000)
OLD_INTEL = x86_cpu("GenuineIntel", "Intel(R) Core(TM) i5-4570 CPU @ 3.20GHz", "avx2", 4) | memory(7900)
AMD = x86_cpu("AuthenticAMD", "AMD Ryzen 7 7840U", "avx2 avx512f avx512_vnni avx512_bf16", 16) | memory(15000)
ROCK = (
    device_tree("Radxa ROCK 5B", "radxa,rock-5b", "rockchip,rk3588")
    | arm_cpu("0xd0b", A76, 8)
    | memory(15900)
)

# name: (files, the profile that doctor must choose)
BOARDS: dict[str, tuple[Files, str]] = {
    "Raspberry Pi 4": (RPI4, "rpi4"),
    "Raspberry Pi 400": (
        RPI4 | device_tree("Raspberry Pi 400 Rev 1.0", "raspberrypi,400", "brcm,bcm2711"),
        "rpi4",
    ),
    "Raspberry Pi 5": (RPI5, "rpi5"),
    "Raspberry Pi 5 + Coral USB": (RPI5 | CORAL_STICK | EDGETPU_LIBRARY, "rpi5-coral-usb"),
    "Raspberry Pi 5 + Coral USB in use": (RPI5 | usb("2-1", "18d1", "9302"), "rpi5-coral-usb"),
    "Raspberry Pi 4 + Coral USB": (RPI4 | CORAL_STICK, "coral-usb"),
    "PC + Coral USB": (OLD_INTEL | CORAL_STICK, "coral-usb"),
    "Core Ultra + Coral USB": (CORE_ULTRA | INTEL_GPU | CORAL_STICK, "coral-usb"),
    "Raspberry Pi 5 + Coral M.2": (RPI5 | pci("0000:01:00.0", "0x1ac1", "0x089a"), "coral-pcie"),
    "Coral Dev Board": (DEV_BOARD, "coral-dev-board"),
    "Jetson Orin Nano": (ORIN_NANO | TENSORRT, "jetson-orin-nano"),
    "Jetson Orin Nano + Coral USB": (ORIN_NANO | TENSORRT | CORAL_STICK, "jetson-orin-nano"),
    "Jetson Orin NX": (ORIN_NX | TENSORRT, "jetson-orin-nx"),
    "Jetson AGX Orin": (AGX_ORIN | TENSORRT, "jetson-agx-orin"),
    "Jetson Xavier NX": (XAVIER_NX | TENSORRT, "jetson-xavier-nx"),
    "PC + NCS2": (OLD_INTEL | usb("1-2", "03e7", "2485", "480"), "ncs2"),
    "Xeon + booted NCS2": (XEON | usb("2-2", "03e7", "f63b"), "ncs2"),
    "Core Ultra": (CORE_ULTRA | INTEL_GPU, "intel-npu"),
    "Xeon with AMX": (XEON, "intel-x86"),
    "Intel laptop with VNNI": (
        x86_cpu("GenuineIntel", "12th Gen Intel(R) Core(TM) i7-1260P", "avx2 avx_vnni", 12)
        | memory(15800)
        | INTEL_GPU,
        "intel-x86",
    ),
    "old Intel PC": (OLD_INTEL, "generic-x86_64"),
    "AMD with VNNI": (AMD, "generic-x86_64"),
    "ROCK 5B": (ROCK, "generic-arm64"),
}


def plant(root: Path, files: Files) -> Path:
    """Write a board's files below a folder."""
    for path, content in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("->"):
            file.symlink_to(content[2:])
        else:
            file.write_text(content, encoding="utf-8")
            if path.startswith("/dev/"):
                file.chmod(0o600)
    return root
