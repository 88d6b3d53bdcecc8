"""A captured board is the board: unpacked elsewhere, detection says the same."""

import tarfile

import msgspec
import pytest
from boards import BOARDS, CORAL_STICK, RPI5, plant

from edgekit.hardware.capture import capture
from edgekit.hardware.detect import detect
from edgekit.hardware.profiles import choose, load_profiles
from edgekit.hardware.sensors import Sensors

PROFILES = load_profiles()


def unpack(file, folder):
    with tarfile.open(file) as archive:
        archive.extractall(folder)  # no filter: Python 3.10 has none, and we made this archive
    return folder


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
@pytest.mark.parametrize("name", BOARDS)
def test_a_captured_board_is_detected_as_the_board_itself(tmp_path, name):
    root = plant(tmp_path / "board", BOARDS[name][0])
    facts = detect(root)
    profile = choose(PROFILES, facts).profile
    capture(root, tmp_path / "board.tar.gz", profile)
    copy = unpack(tmp_path / "board.tar.gz", tmp_path / "copy")
    assert msgspec.to_builtins(detect(copy)) == msgspec.to_builtins(facts)
    assert Sensors(copy, profile.telemetry).read() == Sensors(root, profile.telemetry).read()


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_a_missing_permission_survives_capture(tmp_path):
    root = plant(tmp_path / "board", RPI5 | CORAL_STICK)
    (root / "dev/bus/usb/002/002").chmod(0o400)
    capture(root, tmp_path / "board.tar.gz", PROFILES[0])
    facts = detect(unpack(tmp_path / "board.tar.gz", tmp_path / "copy"))
    assert "no permission" in facts.accelerators[1].reason


def test_a_capture_holds_no_serial_number_and_no_users(tmp_path):
    root = plant(
        tmp_path / "board",
        RPI5
        | CORAL_STICK
        | {
            "/etc/group": "plugdev:x:46:alice\n",
            "/sys/class/dmi/id/product_serial": "SECRET1",
            "/proc/device-tree/serial-number": "SECRET2",
            "/dev/nvidia0": "",
            "/proc/driver/nvidia/gpus/0000:00:06.0/information": (
                "Model: \t\t NVIDIA H200\nIRQ:   \t\t 41\nGPU UUID: \t GPU-SECRET3\nDevice Minor: \t 0\n"
            ),
        },
    )
    capture(root, tmp_path / "board.tar.gz", PROFILES[0])
    with tarfile.open(tmp_path / "board.tar.gz") as archive:
        text = b"".join(archive.extractfile(m).read() for m in archive.getmembers() if m.isreg())
    for secret in (b"SECRET", b"alice", b"10000000abcdef12"):
        assert secret not in text
    assert b"NVIDIA H200" in text
