"""Doctor proves what can be proved, says what to mend, and keeps proofs only as long as they hold."""

import json
from pathlib import Path

import msgspec
import pytest
from boards import BOARDS, CORAL_STICK, EDGETPU_LIBRARY, ORIN_NANO, RPI5, plant, usb
from provers import Prover

from edgekit.base.paths import cache_dir
from edgekit.cli import doctor as command
from edgekit.core.spec import Facts
from edgekit.hardware.accelerator_checks import fact as accelerator_fact
from edgekit.hardware.accelerator_checks import present
from edgekit.model import doctor
from edgekit.model.doctor import examine, facts_with_proofs


@pytest.fixture
def live(monkeypatch):
    """Let captured facts stand for this machine's own, as if the board were the one we run on."""

    def become(root: Path, facts: Facts | None = None):
        monkeypatch.setattr(doctor, "_is_live", lambda path: path == root)
        if facts is not None:
            monkeypatch.setattr(doctor, "detect", lambda *_: facts)
        return root

    return become


# -- proofs


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_is_examined_without_touching_its_accelerators(tmp_path, name):
    files, wanted = BOARDS[name]
    prover = Prover()
    found = examine(plant(tmp_path, files), prover)
    assert found.chosen.profile.id == wanted
    assert {accelerator for _, accelerator in prover.asked} == {"cpu"}
    assert json.loads(json.dumps(msgspec.to_builtins(command.document(found))))["profile"] == wanted
    assert command.render(found)


def test_an_accelerator_that_can_be_opened_is_proved_and_one_that_runs_is_usable(tmp_path, live):
    root = live(plant(tmp_path, RPI5 | CORAL_STICK))
    prover = Prover()
    facts = examine(root, prover).facts
    assert ("litert", "edgetpu") in prover.asked
    tpu = facts.accelerators[1]
    assert tpu.usable, "the library was not where we look for it, and yet the backend ran"
    assert [level.ok for level in tpu.levels] == [True, True, True, False, True]


def test_an_accelerator_whose_proof_fails_is_not_usable(tmp_path, live):
    root = live(plant(tmp_path, RPI5 | CORAL_STICK | {"/usr/lib/aarch64-linux-gnu/libedgetpu.so.1": ""}))
    facts = examine(root, Prover({("litert", "edgetpu"): "crashed with SIGSEGV"})).facts
    tpu = facts.accelerators[1]
    assert (tpu.usable, tpu.reason) == (False, "litert: crashed with SIGSEGV")
    assert any("litert on edgetpu does not work: crashed with SIGSEGV" in w for w in facts.warnings)


def test_an_accelerator_without_permission_is_not_opened(tmp_path, live):
    root = live(plant(tmp_path, RPI5 | CORAL_STICK | EDGETPU_LIBRARY))
    (root / "dev/bus/usb/002/002").chmod(0o400)
    prover = Prover()
    facts = examine(root, prover).facts
    assert ("litert", "edgetpu") not in prover.asked
    tpu = next(b for b in facts.backends if b.accelerator == "edgetpu")
    assert tpu.reason.startswith("not proved: no permission on /dev/bus/usb")


def test_tensorrt_is_usable_when_one_of_its_two_backends_runs(tmp_path, live):
    root = live(plant(tmp_path, ORIN_NANO))
    facts = examine(root, Prover({("onnxruntime", "tensorrt"): "this build lacks it"})).facts
    tensorrt = next(a for a in facts.accelerators if a.kind == "tensorrt")
    assert tensorrt.usable
    assert not any("onnxruntime on tensorrt" in warning for warning in facts.warnings)


def test_an_accelerator_that_a_board_should_have_and_has_not_is_told(tmp_path):
    files = {path: text for path, text in BOARDS["Coral Dev Board"][0].items() if "pci" not in path}
    facts = examine(plant(tmp_path, files), Prover()).facts
    tpu = next(b for b in facts.backends if b.accelerator == "edgetpu")
    assert (tpu.works, tpu.reason) == (False, "no edgetpu was found")


def test_an_accelerator_that_the_profile_has_no_backend_for_is_told(tmp_path):
    files = ORIN_NANO | usb("1-2", "03e7", "2485")
    facts = examine(plant(tmp_path, files), Prover()).facts
    assert any("profile 'jetson-orin-nano' has no backend for it" in w for w in facts.warnings)


def test_heat_and_low_voltage_are_told(tmp_path):
    hot = {
        "/sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        "/sys/class/thermal/thermal_zone0/temp": "84000\n",
    }
    warnings = "\n".join(examine(plant(tmp_path, RPI5 | hot), Prover()).facts.warnings)
    for part in (
        "supply voltage is too low",
        "throttled by heat",
        "84.0 degrees, the profile's limit is 80.0",
    ):
        assert part in warnings


# -- the cache


BOARD = Facts(arch="aarch64", board="Raspberry Pi 5 Model B", compatible=("brcm,bcm2712",), memory_mb=8000)


def test_proofs_are_made_once_and_kept(live, tmp_path):
    root = live(tmp_path, BOARD)
    first, second = Prover(), Prover()
    facts, chosen = facts_with_proofs(root, first)
    again, _ = facts_with_proofs(root, second)
    assert len(first.asked) == 3
    assert (second.asked, again, chosen.profile.id) == ([], facts, "rpi5")


def test_doctor_always_proves_anew_and_keeps_the_result(live, tmp_path):
    root = live(tmp_path, BOARD)
    facts_with_proofs(root, Prover({("litert", "cpu"): "broken"}))
    prover = Prover()
    examine(root, prover)
    assert len(prover.asked) == 3
    facts, _ = facts_with_proofs(root, Prover({("litert", "cpu"): "not asked"}))
    assert all(backend.works for backend in facts.backends)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("_boot_id", lambda: "another boot"),
        ("backend_version", lambda _: "9.9"),
        ("__version__", "9.9"),
    ],
)
def test_proofs_end_with_the_boot_and_the_libraries(live, tmp_path, monkeypatch, what, value):
    root = live(tmp_path, BOARD)
    facts_with_proofs(root, Prover())
    monkeypatch.setattr(doctor, what, value)
    prover = Prover()
    facts_with_proofs(root, prover)
    assert len(prover.asked) == 3


def test_a_stick_that_is_plugged_in_makes_new_proofs(live, tmp_path):
    facts_with_proofs(live(tmp_path, BOARD), Prover())
    stick = accelerator_fact("edgetpu", "Coral", (present("USB"),), {})
    live(tmp_path, msgspec.structs.replace(BOARD, accelerators=(stick,), usb=("1a6e:089a",)))
    prover = Prover()
    facts_with_proofs(tmp_path, prover)
    assert ("litert", "edgetpu") in prover.asked


def test_a_failed_proof_is_made_again_after_five_minutes(live, tmp_path, monkeypatch):
    root = live(tmp_path, BOARD)
    monkeypatch.setattr(doctor, "_boot_s", lambda: 100.0)
    facts_with_proofs(root, Prover({("openvino", "cpu"): "hung"}))
    monkeypatch.setattr(doctor, "_boot_s", lambda: 399.0)
    early, late = Prover(), Prover()
    facts_with_proofs(root, early)
    monkeypatch.setattr(doctor, "_boot_s", lambda: 401.0)
    facts_with_proofs(root, late)
    assert (len(early.asked), len(late.asked)) == (0, 3)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'{"key":1}', b"[]"])
def test_a_damaged_cache_is_made_again(live, tmp_path, damage, caplog):
    root = live(tmp_path, BOARD)
    cache_dir().mkdir(parents=True)
    (cache_dir() / "facts.json").write_bytes(damage)
    prover = Prover()
    facts_with_proofs(root, prover)
    assert len(prover.asked) == 3
    assert "is not used, proofs run again" in caplog.text
    facts_with_proofs(root, prover)
    assert len(prover.asked) == 3


def test_a_cache_that_cannot_be_written_is_told_and_does_no_harm(live, tmp_path, caplog):
    root = live(tmp_path / "root", BOARD)
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("a file where the folder should be")
    facts, _ = facts_with_proofs(root, Prover())
    assert len(facts.backends) == 3
    assert "cannot be written, proofs run again" in caplog.text


def test_captured_facts_never_enter_the_cache(tmp_path):
    facts_with_proofs(plant(tmp_path, RPI5), Prover())
    assert not (cache_dir() / "facts.json").exists()


def test_the_edge_tpu_runtime_tells_its_version_in_a_child(tmp_path):
    """A library that is none, or crashes, gives no version and no harm."""
    library = tmp_path / "libedgetpu.so.1"
    library.write_bytes(b"not a library")
    levels = (doctor.Level(name="library", ok=True, detail=str(library)),)
    facts = Facts(arch="aarch64", accelerators=(accelerator_fact("edgetpu", "Coral", levels, {}),))
    assert doctor._library_versions(facts) == {"edgetpu": ""}
