"""``packaging/install.sh`` on boards as files: it says what it would do, and refuses what does not fit."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from boards import BOARDS, CORAL_STICK, RPI5, Files, plant

SCRIPT = Path(__file__).parents[2] / "packaging" / "install.sh"
SYSTEMS = {
    "bookworm": ("deb12", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\n'),
    "jammy": ("ubuntu22.04", 'PRETTY_NAME="Ubuntu 22.04"\nUBUNTU_CODENAME=jammy\nVERSION_CODENAME=jammy\n'),
}


@pytest.fixture
def stick(tmp_path):
    """Return a folder with packages by name for two releases and both architectures, and their sums."""
    folder = tmp_path / "stick"
    folder.mkdir()
    for package in ("edgekit", "edgekit-litert", "edgekit-onnxruntime", "edgekit-openvino", "edgekit-fleet"):
        for suffix, _ in SYSTEMS.values():
            for arch in ("amd64", "arm64"):
                for version in ("0.1.0", "0.9.0", "0.10.0"):
                    (folder / f"{package}_{version}-1~{suffix}_{arch}.deb").write_text(package + version)
    write_sums(folder)
    return folder


def write_sums(folder):
    rows = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in folder.glob("*.deb")]
    (folder / "SHA256SUMS").write_text("\n".join(rows) + "\n")


def board(tmp_path, files: Files, system="bookworm"):
    root = plant(tmp_path / "board", files)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text(SYSTEMS[system][1])
    return root


def install(*arguments):
    return subprocess.run(
        ["sh", SCRIPT, "--dry-run", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def packages(done):
    return re.findall(r"^ +(\S+)_0\.10\.0-1~\S+\.deb$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", BOARDS)
def test_every_known_board_gets_the_newest_packages_of_its_release_and_architecture(tmp_path, stick, name):
    files = BOARDS[name][0]
    done = install("--root", board(tmp_path, files), "--from", stick)
    assert (done.returncode, done.stderr) == (0, "")
    arch = "arm64" if "aarch64" in files["/proc/sys/kernel/arch"] else "amd64"
    assert f"edgekit_0.10.0-1~deb12_{arch}.deb" in done.stdout
    is_intel = "GenuineIntel" in files["/proc/cpuinfo"]
    second = ["edgekit-openvino"] if is_intel else ["edgekit-onnxruntime"] * ("Jetson" in name)
    assert packages(done) == ["edgekit", "edgekit-litert", *second]
    assert done.stdout.endswith("--dry-run: nothing was changed\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raspberry Pi 4 + Coral USB", "libedgetpu.so.1 is missing"),
        ("Raspberry Pi 5 + Coral M.2", "no /dev/apex_0"),
        ("Jetson Orin Nano", "used through JetPack's TensorRT"),
        ("Raspberry Pi 5", "ribbon cable"),
    ],
)
def test_a_driver_that_is_missing_is_named_and_not_installed(tmp_path, stick, name, said):
    done = install("--root", board(tmp_path, BOARDS[name][0]), "--from", stick)
    assert said in done.stdout.partition("not done by this script:")[2]


def test_a_coral_whose_library_is_there_needs_no_hint(tmp_path, stick):
    done = install("--root", board(tmp_path, BOARDS["Raspberry Pi 5 + Coral USB"][0]), "--from", stick)
    assert "libedgetpu" not in done.stdout


def test_pages_that_a_hint_names_exist():
    pages = set(re.findall(r"docs/[\w./-]+\.md", SCRIPT.read_text()))
    assert pages
    assert [page for page in pages if not (SCRIPT.parents[1] / page).exists()] == []


def test_another_release_gets_its_own_packages_and_runtimes_can_be_named(tmp_path, stick):
    root = board(tmp_path, RPI5 | CORAL_STICK, "jammy")
    done = install("--root", root, "--from", stick, "--with", "onnxruntime,openvino")
    assert packages(done) == ["edgekit", "edgekit-onnxruntime", "edgekit-openvino"]
    assert "~ubuntu22.04_arm64.deb" in done.stdout
    assert "only the repositories that apt knows" in done.stdout
    done = install("--root", root, "--from", stick, "--fleet", "--offline")
    assert packages(done) == ["edgekit-fleet"]
    assert "none: what they depend on must be installed" in done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"/etc/os-release": "VERSION_CODENAME=buster\nPRETTY_NAME=old\n"}, "no packages for old"),
        ({"/proc/sys/kernel/arch": "riscv64\n"}, "no packages for unknown"),
    ],
)
def test_a_system_without_packages_is_refused_with_those_that_have_them(tmp_path, stick, change, said):
    root = plant(board(tmp_path, RPI5), change)
    done = install("--root", root, "--from", stick)
    assert done.returncode == 3
    assert said in done.stderr
    assert "fix: on other systems: a wheel, see docs/install.md" in done.stderr


def test_a_folder_without_the_package_says_which_and_how_it_is_built(tmp_path, stick):
    for file in stick.glob("edgekit-litert_*"):
        file.unlink()
    done = install("--root", board(tmp_path, RPI5), "--from", stick)
    assert done.returncode == 3
    assert "no package edgekit-litert_*~deb12_arm64.deb" in done.stderr
    assert "--arch arm64 --release bookworm" in done.stderr


def test_a_package_that_differs_from_its_sum_is_refused(tmp_path, stick):
    root = board(tmp_path, RPI5)
    (stick / "edgekit-litert_0.10.0-1~deb12_arm64.deb").write_text("cut off")
    done = install("--root", root, "--from", stick)
    assert (done.returncode, "is not the one that SHA256SUMS lists" in done.stderr) == (6, True)
    (stick / "SHA256SUMS").unlink()
    assert install("--root", root, "--from", stick).returncode == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frm", "x"], "unknown option --frm"),
        (["--from"], "--from wants a value"),
        (["--with", "tflite"], "there is no runtime tflite"),
        (["--from", "http://example.org"], "only https"),
        (["--from", "https://example.org", "--offline"], "exclude each other"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, arguments, said):
    done = install(*arguments, "--root", board(tmp_path, RPI5)) if len(arguments) > 1 else install(*arguments)
    assert (done.returncode, said in done.stderr) == (2, True)


def test_an_address_that_does_not_answer_is_an_error_of_the_network(tmp_path):
    done = install("--root", board(tmp_path, RPI5), "--from", "https://127.0.0.1:9")
    assert done.returncode == 7
    assert "SHA256SUMS cannot be fetched" in done.stderr


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg makes the signature: apt install gpg")
def test_with_a_keyring_only_a_signed_folder_is_taken(tmp_path, stick, monkeypatch):
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))

    def gpg(*words):
        subprocess.run(["gpg", "--batch", "--quiet", *words], check=True, capture_output=True)

    for user in ("release", "other"):
        gpg("--passphrase", "", "--quick-gen-key", user, "ed25519", "sign")
        gpg("--output", str(tmp_path / f"{user}.gpg"), "--export", user)
    common = ("--root", board(tmp_path, RPI5), "--from", stick)
    assert install(*common, "--keyring", tmp_path / "release.gpg").returncode == 6
    gpg(
        "--local-user",
        "release",
        "--detach-sign",
        "--output",
        f"{stick}/SHA256SUMS.gpg",
        f"{stick}/SHA256SUMS",
    )
    assert install(*common, "--keyring", tmp_path / "release.gpg").returncode == 0
    done = install(*common, "--keyring", tmp_path / "other.gpg")
    assert (done.returncode, "is not signed by a key in" in done.stderr) == (6, True)
    subprocess.run(["gpgconf", "--kill", "all"], check=False)
