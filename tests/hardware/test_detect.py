"""Detection finds what is there, tells each rung, and survives whatever the files hold."""

import os

import msgspec
import pytest
from boards import (
    AGX_ORIN,
    BOARDS,
    CORAL_STICK,
    CORE_ULTRA,
    DEV_BOARD,
    EDGETPU_LIBRARY,
    INTEL_GPU,
    OLD_INTEL,
    ORIN_NANO,
    ROCK,
    RPI4,
    RPI5,
    TENSORRT,
    XAVIER_NX,
    XEON,
    accel,
    pci,
    plant,
    usb,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.core.spec import AcceleratorFact, Facts
from edgekit.hardware import cpu
from edgekit.hardware.detect import detect
from edgekit.hardware.profiles import choose, load_profiles
from edgekit.hardware.sensors import Sensors
from edgekit.hardware.tree import Tree

PROFILES = load_profiles()


def facts_of(tmp_path, *files):
    merged = {}
    for part in files:
        merged |= part
    return detect(plant(tmp_path, merged))


def only(facts: Facts, kind: str) -> AcceleratorFact:
    (found,) = [a for a in facts.accelerators if a.kind == kind]
    return found


def rungs(accelerator: AcceleratorFact) -> dict[str, bool]:
    return {level.name: level.ok for level in accelerator.levels}


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_is_recognised_and_has_its_profile(tmp_path, name):
    files, wanted = BOARDS[name]
    facts = facts_of(tmp_path, files)
    chosen = choose(PROFILES, facts)
    assert (chosen.profile.id, chosen.tied) == (wanted, ())
    assert facts.memory_mb > 900
    assert facts.memory_free_mb > 600


def test_a_pi_5_is_described_whole(tmp_path):
    facts = facts_of(tmp_path, RPI5)
    assert facts.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts.compatible == ("raspberrypi,5-model-b", "brcm,bcm2712")
    assert (facts.arch, facts.cpu, facts.cores, facts.memory_mb) == ("aarch64", "Cortex-A76", 4, 8063)
    assert facts.cpu_features == ("asimd", "fphp", "asimdhp", "asimddp")
    assert [a.kind for a in facts.accelerators] == ["cpu"]
    assert facts.warnings == ()


def test_an_intel_processor_shows_its_int8_features(tmp_path):
    facts = facts_of(tmp_path, XEON)
    assert {"avx512_vnni", "amx_int8", "amx_bf16"} <= set(facts.cpu_features)
    assert facts.cpu == "Intel(R) Xeon(R) Gold 6430"


# -- Coral


def test_a_coral_stick_with_everything_is_usable(tmp_path):
    tpu = only(facts_of(tmp_path, RPI5, CORAL_STICK, EDGETPU_LIBRARY), "edgetpu")
    assert tpu.usable
    assert rungs(tpu) == {"present": True, "driver": True, "permission": True, "library": True}
    assert tpu.attributes["speed_mbps"] == "5000"
    assert tpu.attributes["node"] == "/dev/bus/usb/002/002"


def test_a_coral_stick_without_library_says_what_to_install(tmp_path):
    facts = facts_of(tmp_path, RPI5, CORAL_STICK)
    tpu = only(facts, "edgetpu")
    assert (tpu.usable, tpu.reason) == (False, "libedgetpu.so.1 is not installed")
    assert "libedgetpu1-std" in tpu.levels[-1].fix
    assert any("libedgetpu1-std" in warning for warning in facts.warnings)


def test_a_coral_stick_without_permission_says_which_rule_is_missing(tmp_path):
    plant(tmp_path, RPI5 | CORAL_STICK | EDGETPU_LIBRARY)
    (tmp_path / "dev/bus/usb/002/002").chmod(0o400)
    tpu = only(detect(tmp_path), "edgetpu")
    assert rungs(tpu) == {"present": True, "driver": True, "permission": False, "library": True}
    assert "no permission on /dev/bus/usb/002/002" in tpu.reason
    assert "plugdev" in next(level.fix for level in tpu.levels if not level.ok)


def test_a_coral_stick_in_a_container_without_usb_nodes_is_present_but_not_usable(tmp_path):
    files = {path: text for path, text in CORAL_STICK.items() if not path.startswith("/dev/")}
    tpu = only(facts_of(tmp_path, RPI5, files, EDGETPU_LIBRARY), "edgetpu")
    assert rungs(tpu) == {"present": True, "driver": False, "permission": False, "library": True}


def test_a_coral_stick_on_usb_2_is_warned_of(tmp_path):
    facts = facts_of(tmp_path, RPI4, usb("1-1", "1a6e", "089a", "480"), EDGETPU_LIBRARY)
    assert any("480 Mbit/s (USB 2)" in warning for warning in facts.warnings)
    assert only(facts, "edgetpu").usable


def test_a_coral_card_without_gasket_says_so(tmp_path):
    tpu = only(facts_of(tmp_path, OLD_INTEL, pci("0000:02:00.0", "0x1ac1", "0x089a")), "edgetpu")
    assert "no driver is bound" in tpu.reason
    assert "gasket" in tpu.levels[1].fix


def test_a_coral_card_without_permission_names_the_node(tmp_path):
    plant(tmp_path, DEV_BOARD)
    (tmp_path / "dev/apex_0").chmod(0o000)
    tpu = only(detect(tmp_path), "edgetpu")
    assert tpu.reason.startswith("no permission on /dev/apex_0 (group ")
    assert "usermod -aG" in tpu.levels[2].fix


def test_two_sticks_are_two_accelerators(tmp_path):
    facts = facts_of(tmp_path, RPI5, CORAL_STICK, usb("2-2", "18d1", "9302", devnum=3), EDGETPU_LIBRARY)
    assert [a.attributes["node"] for a in facts.accelerators if a.kind == "edgetpu"] == [
        "/dev/bus/usb/002/002",
        "/dev/bus/usb/002/003",
    ]


# -- Jetson


@pytest.mark.parametrize(
    ("files", "compute", "jetpack"),
    [(ORIN_NANO, "8.7", "6.2"), (AGX_ORIN, "8.7", "6.2"), (XAVIER_NX, "7.2", "5")],
)
def test_a_jetson_tells_chip_jetpack_and_power_mode(tmp_path, files, compute, jetpack):
    facts = facts_of(tmp_path, files, TENSORRT)
    cuda = only(facts, "cuda")
    assert (cuda.usable, cuda.attributes["compute"], facts.jetpack) == (True, compute, jetpack)
    assert cuda.attributes["power_mode"] == "25W"
    assert only(facts, "tensorrt").usable


def test_a_jetson_without_tensorrt_still_has_cuda(tmp_path):
    facts = facts_of(tmp_path, ORIN_NANO)
    assert only(facts, "cuda").usable
    tensorrt = only(facts, "tensorrt")
    assert (tensorrt.usable, tensorrt.reason) == (False, "TensorRT (libnvinfer) is not installed")
    assert choose(PROFILES, facts).profile.id == "jetson-orin-nano"


def test_a_jetson_whose_tensorrt_lacks_its_python_binding_says_so(tmp_path):
    files = {"/usr/lib/aarch64-linux-gnu/libnvinfer.so.10": ""}
    assert "Python binding" in only(facts_of(tmp_path, ORIN_NANO, files), "tensorrt").reason


def test_a_container_on_a_jetson_without_the_gpu_says_so(tmp_path):
    files = {
        path: text
        for path, text in ORIN_NANO.items()
        if path not in ("/dev/nvhost-gpu", "/etc/nv_tegra_release")
    }
    facts = facts_of(tmp_path, files)
    assert "no /dev/nvhost-gpu" in only(facts, "cuda").reason
    assert any("nv_tegra_release" in warning for warning in facts.warnings)


# Source: NVIDIA's JetPack archive.
@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R32 (release), REVISION: 7.1", "4"),
        ("R36 (release), REVISION: 3.0", "6.0"),
        ("R36 (release), REVISION: 4.0", "6.1"),
        ("R36 (release), REVISION: 4.3", "6.2"),
        ("R36 (release), REVISION: 4.4", "6.2.1"),
        ("R36 (release), REVISION: 5.0", "6.2.2"),
        ("R38 (release), REVISION: 2.0", "7.0"),
        ("R39 (release), REVISION: 2", "7.2"),
        ("R28 (release), REVISION: 1.0", ""),
        ("garbage", ""),
    ],
)
def test_the_l4t_release_tells_the_jetpack(tmp_path, release, jetpack):
    assert facts_of(tmp_path, {"/etc/nv_tegra_release": f"# {release}, GCID: 1"}).jetpack == jetpack


# -- Intel


def test_an_npu_with_its_driver_and_library_is_usable(tmp_path):
    npu = only(facts_of(tmp_path, CORE_ULTRA), "npu")
    assert npu.usable
    assert npu.attributes == {"bus": "pci", "id": "8086:7d1d", "node": "/dev/accel/accel0"}


def test_an_npu_owned_by_another_driver_is_not_usable(tmp_path):
    files = {
        path: text for path, text in CORE_ULTRA.items() if "accel" not in path and "0b.0/driver" not in path
    }
    facts = facts_of(
        tmp_path, files, pci("0000:00:0b.0", "0x8086", "0x7d1d", driver="vfio-pci"), accel(0, "habanalabs")
    )
    npu = only(facts, "npu")
    assert (npu.usable, npu.reason) == (False, "driver 'vfio-pci' is bound, wanted intel_vpu")
    assert any("'habanalabs'" in warning for warning in facts.warnings)


@pytest.mark.parametrize("driver", ["amdxdna", "habanalabs", "qaic", "rocket", "ethosu"])
def test_an_accel_node_of_another_vendor_is_no_npu(tmp_path, driver):
    facts = facts_of(tmp_path, OLD_INTEL, accel(0, driver))
    assert [a.kind for a in facts.accelerators] == ["cpu"]
    assert any(repr(driver) in warning for warning in facts.warnings)


def test_an_npu_without_the_user_mode_driver_says_what_to_install(tmp_path):
    files = {path: text for path, text in CORE_ULTRA.items() if "libze" not in path}
    npu = only(facts_of(tmp_path, files), "npu")
    assert "libze_intel_npu.so is not installed" in npu.reason


def test_an_intel_gpu_needs_its_opencl_driver(tmp_path):
    assert only(facts_of(tmp_path / "a", XEON, INTEL_GPU), "openvino-gpu").usable
    files = {path: text for path, text in INTEL_GPU.items() if not path.endswith(".icd")}
    gpu = only(facts_of(tmp_path / "b", XEON, files), "openvino-gpu")
    assert "OpenCL" in gpu.reason


def test_a_graphics_card_of_another_vendor_is_not_openvinos(tmp_path):
    facts = facts_of(tmp_path, XEON, INTEL_GPU, {"/sys/class/drm/renderD128/device/vendor": "0x1002\n"})
    assert [a.kind for a in facts.accelerators] == ["cpu"]


def test_a_neural_compute_stick_says_that_openvino_dropped_it(tmp_path):
    facts = facts_of(tmp_path, OLD_INTEL, usb("1-2", "03e7", "2485", "480"))
    stick = only(facts, "myriad")
    assert not stick.usable
    assert "2021.4.2" in stick.levels[-1].fix
    assert any("OAK" in warning for warning in facts.warnings)


def test_a_neural_compute_stick_with_its_worker_is_usable(tmp_path):
    worker = {"/opt/edgekit/myriad/bin/python3": ""}
    assert only(facts_of(tmp_path, OLD_INTEL, usb("1-2", "03e7", "f63b"), worker), "myriad").usable


def test_the_first_neural_compute_stick_is_told_and_not_used(tmp_path):
    facts = facts_of(tmp_path, OLD_INTEL, usb("1-2", "03e7", "2150"))
    assert [a.kind for a in facts.accelerators] == ["cpu"]
    assert any("Stick 1" in warning for warning in facts.warnings)


def test_an_nvidia_card_in_a_pc_is_cuda(tmp_path):
    card = pci("0000:01:00.0", "0x10de", "0x2684", "0x030000", "nvidia")
    files = {"/dev/nvidiactl": "", "/usr/lib/x86_64-linux-gnu/libcuda.so.1": ""}
    facts = facts_of(tmp_path, OLD_INTEL, card, files)
    assert only(facts, "cuda").usable
    assert not only(facts, "tensorrt").usable


def test_a_container_that_has_the_device_without_its_bus_has_cuda_with_name_and_driver(tmp_path):
    files = {
        "/dev/nvidia0": "",
        "/dev/nvidiactl": "",
        "/usr/local/nvidia/lib64/libcuda.so.1": "",
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Kernel Module  580.159.04  Release\n",
        "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA L4\nIRQ: 12\n",
    }
    cuda = only(facts_of(tmp_path, OLD_INTEL, files), "cuda")
    assert (cuda.usable, cuda.name, cuda.attributes["driver"]) == (True, "NVIDIA L4", "580.159.04")


def test_accelerators_without_a_backend_are_told(tmp_path):
    facts = facts_of(tmp_path, ROCK, pci("0000:01:00.0", "0x1e60", "0x2864"))
    assert any("Hailo" in warning for warning in facts.warnings)
    assert any("Rockchip" in warning for warning in facts.warnings)


# -- processor and memory


def test_a_container_has_the_cores_and_memory_that_it_was_given(tmp_path):
    limits = {
        "/proc/self/cgroup": "0::/kubepods/pod1\n",
        "/sys/fs/cgroup/kubepods/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/kubepods/pod1/cpu.max": "250000 100000\n",
        "/sys/fs/cgroup/kubepods/pod1/memory.max": f"{512 << 20}\n",
        "/sys/fs/cgroup/kubepods/pod1/memory.current": f"{400 << 20}\n",
        "/sys/fs/cgroup/kubepods/pod1/memory.stat": f"anon 1\ninactive_file {100 << 20}\n",
    }
    facts = facts_of(tmp_path, RPI5, limits)
    assert (facts.cores, facts.memory_mb, facts.memory_free_mb) == (2, 512, 212)


def test_a_version_1_control_group_binds_as_well(tmp_path):
    limits = {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 << 20}",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": f"{56 << 20}",
    }
    facts = facts_of(tmp_path, RPI5, limits)
    assert (facts.cores, facts.memory_mb, facts.memory_free_mb) == (1, 256, 200)


def test_a_32_bit_system_is_told(tmp_path):
    facts = facts_of(tmp_path, {"/proc/cpuinfo": "processor: 0\nFeatures: neon\nCPU architecture: 7\n"})
    assert facts.arch == "armv7l"
    assert any("64-bit" in warning for warning in facts.warnings)


def test_the_auxiliary_vector_names_the_arm_features():
    a76 = 1 << 1 | 1 << 9 | 1 << 10 | 1 << 20
    assert cpu._features_of_hwcap(a76, 0) == ("asimd", "fphp", "asimdhp", "asimddp")
    assert cpu._features_of_hwcap(0, 1 << 13 | 1 << 14) == ("i8mm", "bf16")


def test_this_machine_is_detected_without_help():
    facts = detect()
    assert facts.arch == cpu.architecture(Tree())
    assert facts.cores == len(os.sched_getaffinity(0)) or facts.cores < len(os.sched_getaffinity(0))
    assert facts.memory_mb > 0
    choose(PROFILES, facts)


# -- broken files


def test_a_link_out_of_the_root_is_not_followed(tmp_path):
    plant(tmp_path, {"/proc/device-tree/model": f"->{tmp_path}/../secret"})
    (tmp_path.parent / "secret").write_text("of the host")
    assert detect(tmp_path).board == ""


def test_a_pipe_does_not_hang_detection(tmp_path):
    folder = tmp_path / "proc/device-tree"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "model")
    assert detect(tmp_path).board == ""


def test_an_empty_root_gives_facts_and_a_generic_profile(tmp_path):
    facts = detect(tmp_path)
    assert (facts.board, facts.cores, facts.memory_mb) == ("", 1, 0)
    assert choose(PROFILES, facts).profile.id.startswith("generic-")


def test_a_garbage_device_tree_gives_text_that_can_be_sent(tmp_path):
    folder = tmp_path / "proc/device-tree"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(bytes(range(256)) * 20)
    (folder / "compatible").write_bytes(b"\xff\xfe\0\0\0brcm,bcm2712\0" + b"x" * 5000)
    facts = detect(tmp_path)
    assert "brcm,bcm2712" in facts.compatible
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_a_board_whose_compatible_is_lost_is_known_by_its_model(tmp_path):
    facts = facts_of(tmp_path, RPI5, {"/proc/device-tree/compatible": ""})
    assert choose(PROFILES, facts).profile.id == "rpi5"


def test_a_file_that_cannot_be_read_is_a_file_that_is_missing(tmp_path):
    plant(tmp_path, RPI5)
    for name in ("proc/meminfo", "proc/cpuinfo"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    facts = detect(tmp_path)
    assert (facts.memory_mb, facts.cpu_features) == (0, ())


ALL_FILES = {}
for _files in (BOARDS[name][0] for name in BOARDS):
    ALL_FILES |= _files
ALL_FILES |= {
    "/sys/fs/cgroup/cpu.max": "",
    "/sys/fs/cgroup/memory.max": "",
    "/sys/fs/cgroup/memory.stat": "",
    "/proc/self/cgroup": "",
    "/sys/class/powercap/intel-rapl:0/energy_uj": "",
    "/sys/class/thermal/cooling_device0/cur_state": "",
    "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1": "",
    "/etc/ld.so.conf.d/x.conf": "",
    "/etc/group": "",
}
PLAIN = sorted(path for path, text in ALL_FILES.items() if not text.startswith("->"))
JUNK = st.one_of(
    st.binary(max_size=60),
    st.integers(-(2**70), 2**70).map(lambda n: str(n).encode()),
    st.sampled_from(
        [b"", b"0x", b"0-", b"\0", b"0-4096,1", b"9" * 5000, b"nan", b"0::/../..", b"-1 0", b"100 0"]
    ),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    board=st.sampled_from(sorted(BOARDS)),
    junk=st.dictionaries(st.sampled_from(PLAIN), JUNK, max_size=12),
    gone=st.sets(st.sampled_from(PLAIN), max_size=12),
)
def test_no_junk_in_any_file_raises(tmp_path_factory, board, junk, gone):
    root = plant(tmp_path_factory.mktemp("root"), BOARDS[board][0])
    for path, content in junk.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for path in gone:
        (root / path.lstrip("/")).unlink(missing_ok=True)
    facts = detect(root)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts
    if facts.arch in ("aarch64", "x86_64"):
        chosen = choose(PROFILES, facts)
        Sensors(root, chosen.profile.telemetry).read()


@pytest.mark.parametrize("name", [name for name in BOARDS if "/proc/device-tree/model" in BOARDS[name][0]])
def test_a_board_whose_model_is_lost_is_known_by_its_compatible(tmp_path, name):
    files, wanted = BOARDS[name]
    facts = facts_of(tmp_path, files | {"/proc/device-tree/model": ""})
    assert choose(PROFILES, facts).profile.id == wanted


@pytest.mark.parametrize("online", ["0-999999", "5-1", "0-", ",", "x", "-1"])
def test_an_absurd_list_of_processors_is_not_believed(tmp_path, online):
    assert facts_of(tmp_path, RPI5, {"/sys/devices/system/cpu/online": online}).cores == 4


def test_a_device_file_with_a_name_that_is_no_text_is_left_out(tmp_path):
    (tmp_path / "dev").mkdir()
    for name in (b"video0", b"video\xff\xfe", b"video\n1"):
        os.close(os.open(os.fsencode(tmp_path) + b"/dev/" + name, os.O_CREAT))
    facts = detect(tmp_path)
    assert facts.nodes == ("/dev/video0",)
    msgspec.json.encode(facts)
