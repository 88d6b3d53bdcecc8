"""The processor and what this process may use of it: architecture, name, features, cores, memory."""

from __future__ import annotations

import os
import re

from edgekit.hardware.tree import Tree

_AT_HWCAP, _AT_HWCAP2 = 16, 26
# Source: Linux, Documentation/arch/arm64/elf_hwcaps.rst and arch/arm64/include/uapi/asm/hwcap.h.
_ARM_FEATURES = {
    "asimd": (_AT_HWCAP, 1),
    "fphp": (_AT_HWCAP, 9),
    "asimdhp": (_AT_HWCAP, 10),
    "asimddp": (_AT_HWCAP, 20),
    "sve": (_AT_HWCAP, 22),
    "sve2": (_AT_HWCAP2, 1),
    "i8mm": (_AT_HWCAP2, 13),
    "bf16": (_AT_HWCAP2, 14),
    "sme": (_AT_HWCAP2, 23),
}
# The names of /proc/cpuinfo that decide which kernels a runtime can use.
_X86_FEATURES = (
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
# Source: Arm's MIDR part numbers, as in Linux arch/arm64/include/asm/cputype.h.
_ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD83): "Neoverse-V3AE",
    (0x4E, 0x003): "Denver 2",
    (0x4E, 0x004): "Carmel",
}
_MACHINES = {"arm64": "aarch64", "aarch64": "aarch64", "amd64": "x86_64", "x86_64": "x86_64"}
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
_MAX_CORES = 4096
_MIB = 1024 * 1024


def architecture(tree: Tree) -> str:
    """Return ``aarch64``, ``x86_64``, or another machine's own name."""
    if tree.is_live:
        machine = os.uname().machine
        return _MACHINES.get(machine, machine)
    named = tree.text("/proc/sys/kernel/arch")
    if named in _MACHINES:
        return _MACHINES[named]
    keys = _cpuinfo(tree)
    if "CPU architecture" in keys or "CPU implementer" in keys:
        return "armv7l" if keys.get("CPU architecture") == "7" else "aarch64"
    folders = ("/proc/device-tree", "/sys/firmware/devicetree/base")
    if "flags" not in keys and any(tree.exists(folder) for folder in folders):
        return "aarch64"
    # The last clue of a machine without a device tree; an empty tree counts as this machine's.
    machine = "x86_64" if "flags" in keys or tree.exists("/sys/class/dmi/id") else os.uname().machine
    return _MACHINES.get(machine, machine)


def features(tree: Tree, arch: str) -> tuple[str, ...]:
    """Return the instruction set features by which runtimes choose kernels, under their Linux names.

    A running ARM machine's are from the auxiliary vector: under emulation /proc/cpuinfo has the host's.
    """
    if arch == "x86_64":
        flags = set(_cpuinfo(tree).get("flags", "").split())
        return tuple(name for name in _X86_FEATURES if name in flags)
    if tree.is_live and arch == "aarch64" and os.uname().machine == "aarch64":
        return _features_of_hwcap(_auxiliary(_AT_HWCAP), _auxiliary(_AT_HWCAP2))
    flags = set(_cpuinfo(tree).get("Features", "").split())
    return tuple(name for name in _ARM_FEATURES if name in flags)


def _features_of_hwcap(hwcap: int, hwcap2: int) -> tuple[str, ...]:
    words = {_AT_HWCAP: hwcap, _AT_HWCAP2: hwcap2}
    return tuple(name for name, (word, bit) in _ARM_FEATURES.items() if words[word] >> bit & 1)


def _auxiliary(kind: int) -> int:
    import ctypes  # here, so that the supervisor, which reads sensors through this module, lacks it

    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype = ctypes.c_ulong
    getauxval.argtypes = [ctypes.c_ulong]
    return int(getauxval(kind))


def name(tree: Tree, arch: str) -> str:
    """Return the processor's name: ``Intel(R) Core(TM) Ultra 7 155H``, ``Cortex-A76``; empty if unknown."""
    keys = _cpuinfo(tree)
    if arch == "x86_64":
        model, vendor = keys.get("model name", ""), _VENDORS.get(keys.get("vendor_id", ""), "")
        return model if vendor in model else f"{vendor} {model}".strip()
    midr = tree.hexadecimal("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1")
    if midr is not None:
        part = (midr >> 24 & 0xFF, midr >> 4 & 0xFFF)
    else:
        part = (_hex(keys.get("CPU implementer", "")), _hex(keys.get("CPU part", "")))
    return _ARM_PARTS.get(part, "")


def cores(tree: Tree) -> int:
    """Return how many cores this process may use, by its affinity and its container's quota."""
    if tree.is_live:
        count = len(os.sched_getaffinity(0))
    else:
        count = _count_ranges(tree.text("/sys/devices/system/cpu/online")) or _count_processors(tree)
    quotas = [q for group in _cgroups(tree) if (q := _quota(tree, group)) is not None]
    return max(1, min([count, *quotas]))


def memory_mb(tree: Tree) -> tuple[int, int]:
    """Return the MiB of memory that this process may use, and the free ones; 0 if unknown."""
    info = _pairs(tree.text("/proc/meminfo"))
    total, free = (_kib(info.get(key, "")) // 1024 for key in ("MemTotal", "MemAvailable"))
    if not free:
        free = _kib(info.get("MemFree", "")) // 1024
    for group in _cgroups(tree):
        limit = _memory_limit(tree, group)
        if limit is None or (total and limit >= total):
            continue
        total = limit
        free = max(0, min(free or limit, limit - _memory_used(tree, group)))
    return total, min(free, total)


def _cgroups(tree: Tree) -> list[str]:
    """Return the folders of this process's control groups, outermost first."""
    base = "/sys/fs/cgroup"
    own = re.search(r"^0::(/.*)$", tree.text("/proc/self/cgroup"), re.MULTILINE)
    parts = [p for p in own.group(1).split("/") if p] if own else []
    if ".." in parts or len(parts) > 32:
        parts = []
    nested = ["/".join([base, *parts[: depth + 1]]) for depth in range(len(parts))]
    return [base, *nested, f"{base}/cpu", f"{base}/memory"]


def _quota(tree: Tree, group: str) -> int | None:
    """Return the whole cores that a control group grants, or None for no limit."""
    match = re.match(r"([0-9]{1,15}) ([0-9]{1,15})$", tree.text(f"{group}/cpu.max"))
    if match:
        quota, period = int(match.group(1)), int(match.group(2))
    else:
        quota = tree.number(f"{group}/cpu.cfs_quota_us") or 0
        period = tree.number(f"{group}/cpu.cfs_period_us") or 0
    return max(1, quota // period) if quota > 0 and period > 0 else None


def _memory_limit(tree: Tree, group: str) -> int | None:
    for file in ("memory.max", "memory.limit_in_bytes"):
        value = tree.number(f"{group}/{file}")
        if value is not None and value > 0:
            return value // _MIB
    return None


def _memory_used(tree: Tree, group: str) -> int:
    """Return the MiB in use, without reclaimable page cache."""
    used = tree.number(f"{group}/memory.current")
    if used is None:
        used = tree.number(f"{group}/memory.usage_in_bytes") or 0
    cache = re.search(
        r"^(?:total_)?inactive_file ([0-9]{1,18})$", tree.text(f"{group}/memory.stat"), re.MULTILINE
    )
    return max(0, used - (int(cache.group(1)) if cache else 0)) // _MIB


def _cpuinfo(tree: Tree) -> dict[str, str]:
    return _pairs(tree.text("/proc/cpuinfo"))


def _pairs(text: str) -> dict[str, str]:
    """Return the ``key : value`` lines of a text; of equal keys the first."""
    pairs: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            pairs.setdefault(key.strip(), value.strip())
    return pairs


def _count_processors(tree: Tree) -> int:
    return min(len(re.findall(r"^processor\s*:", tree.text("/proc/cpuinfo"), re.MULTILINE)), _MAX_CORES)


def _count_ranges(text: str) -> int:
    """Count the members of a kernel list.

    >>> _count_ranges("0-3,6"), _count_ranges("garbage"), _count_ranges("0-999999999")
    (5, 0, 0)
    """
    count = 0
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if not match:
            return 0
        count += int(match.group(2) or match.group(1)) - int(match.group(1)) + 1
    return count if 0 < count <= _MAX_CORES else 0


def _kib(text: str) -> int:
    match = re.match(r"([0-9]{1,15}) kB", text)
    return int(match.group(1)) if match else 0


def _hex(text: str) -> int:
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else -1
