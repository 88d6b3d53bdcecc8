from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from update_kit import Fleet, digest, in_days, make_bundle

from edgekit.base.http import Patience, Web
from edgekit.core import wire
from edgekit.core.errors import (
    BundleError,
    ConfigError,
    ExpiredError,
    HashMismatchError,
    LinkError,
    NoVariantError,
    ProtocolError,
    RollbackAttackError,
    ServerError,
    SignatureError,
    StorageError,
    TrustError,
    UsageError,
)
from edgekit.core.spec import BackendFact, Facts, Profile
from edgekit.model.bundle import open_bundle
from edgekit.update.contract import EnrollOrder, UpdaterRequest, UpdaterResult
from edgekit.update.download import Blobs
from edgekit.update.launch import run_enroll, run_updater
from edgekit.update.slots import Slots
from edgekit.update.updater import Job

FACTS = Facts(arch="x86_64", backends=(BackendFact(name="onnxruntime", version="1.20", works=True),))
PROFILE = Profile(id="generic", title="any")


def job(state_dir, desired: str, kind="fetch", model="m", **changes) -> UpdaterResult:
    """Run a job within this process."""
    request = UpdaterRequest(
        kind=kind,
        state_dir=str(state_dir),
        desired=desired,
        model=model,
        facts=FACTS,
        profile=PROFILE,
        **changes,
    )
    return Job(request, lambda _: None).run()


def published(fleet: Fleet, version: str = "1.0.0", **kind):
    manifest, contents = make_bundle(version, **kind)
    return fleet.publish(manifest, contents), contents


def test_a_signed_and_wanted_bundle_is_fetched_and_opens(fleet, state_dir):
    wanted, contents = published(fleet)
    found = job(state_dir, fleet.desire(1, m=wanted))
    assert (found.model, found.version, found.manifest_sha256) == ("m", "1.0.0", wanted.sha256)
    assert found.variants == ("a",)
    assert "riscv64" in found.rejected["b"]
    assert found.fetched_bytes == sum(len(contents[p]) for p in ("labels.txt", "golden/0.npz", "v/a.bin"))
    assert not (state_dir / "blobs" / digest(contents["v/b.bin"])).exists()
    opened = open_bundle(Slots(state_dir).stage("m", "1.0.0", found.manifest_sha256))
    opened.check_hashes()
    assert json.loads((state_dir / "desired.json").read_text())["version"] == 1


def test_what_is_here_is_not_fetched_again(fleet, state_dir, server):
    wanted, _ = published(fleet)
    job(state_dir, fleet.desire(1, m=wanted))
    server.asked.clear()
    assert job(state_dir, fleet.desire(1, m=wanted)).fetched_bytes == 0
    assert [path for path, _ in server.asked] == ["/tuf/metadata/2.root.json", "/tuf/metadata/timestamp.json"]


def test_in_a_child_process_it_tells_its_progress_and_the_same_result(fleet, state_dir):
    wanted, _ = published(fleet)
    seen = []
    request = UpdaterRequest(
        kind="fetch", state_dir=str(state_dir), desired=fleet.desire(1, m=wanted), model="m", facts=FACTS,
        profile=PROFILE,
    )  # fmt: skip
    found = run_updater(request, seen.append)
    assert found.variants == ("a",)
    assert [p.stage for p in seen][:2] == ["trust", "manifest"]
    assert (seen[-1].stage, seen[-1].done_bytes) == ("blobs", seen[-1].total_bytes)


def test_an_error_of_the_child_comes_out_as_the_same_class(fleet, state_dir):
    request = UpdaterRequest(kind="accept", state_dir=str(state_dir), desired=fleet.desire(1, device="other"))
    with pytest.raises(TrustError, match="for device 'other'"):
        run_updater(request)
    with pytest.raises(UsageError, match="not enrolled"):
        run_updater(msgspec.structs.replace(request, state_dir=str(state_dir / "none")))


def test_the_exit_code_is_the_error_s(fleet, state_dir):
    request = UpdaterRequest(kind="accept", state_dir=str(state_dir), desired=fleet.desire(1, device="other"))
    done = subprocess.Popen(
        [sys.executable, "-m", "edgekit.update.updater", "job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    done.stdin.write(msgspec.json.encode(request) + b"\n")
    done.stdin.flush()
    assert json.loads(done.stdout.readline())["error"]["code"] == "trust"
    assert done.wait(20) == 6
    done.stdin.close()
    done.stdout.close()


def test_an_updater_ends_when_its_supervisor_is_gone(fleet, state_dir, server):
    wanted, contents = published(fleet)
    server.faults[f"/tuf/targets/blobs/{digest(contents['v/a.bin'])}"] = ["drip"]
    request = UpdaterRequest(
        kind="fetch", state_dir=str(state_dir), desired=fleet.desire(1, m=wanted), model="m"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit.update.updater", "job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdin.write(msgspec.json.encode(request) + b"\n")
    child.stdin.flush()
    assert child.stdout.readline()
    child.stdin.close()
    assert child.wait(20) == 130
    child.stdout.close()


# -- desired states


def test_a_desired_state_is_accepted_once_verified_and_stored_as_it_came(fleet, state_dir):
    text = fleet.desire(7)
    assert job(state_dir, text, kind="accept").desired_version == 7
    assert (state_dir / "desired.json").read_text() == text
    assert job(state_dir, text, kind="accept").desired_version == 7


def test_a_crash_between_floor_and_desired_state_is_mended_by_the_next_run(fleet, state_dir):
    text = fleet.desire(7)
    job(state_dir, text, kind="accept")
    (state_dir / "desired.json").unlink()
    job(state_dir, text, kind="accept")
    assert (state_dir / "desired.json").read_text() == text


def test_a_desired_state_with_a_field_of_the_future_stays_covered_by_its_signature(fleet, state_dir):
    document = json.loads(fleet.desire(1))
    document["surprise"] = 1
    with pytest.raises(SignatureError):
        job(state_dir, json.dumps(document), kind="accept")


@pytest.mark.parametrize("attack", ["unsigned", "other key", "other key's id", "changed", "not hex"])
def test_a_desired_state_that_the_fleet_did_not_sign_is_refused(fleet, state_dir, attack):
    thief = Ed25519PrivateKey.generate()
    document = json.loads(fleet.desire(1))
    if attack == "unsigned":
        document["signature"] = None
    elif attack == "other key":
        document = json.loads(fleet.desire(1, key=thief))
    elif attack == "other key's id":
        document = json.loads(fleet.desire(1, key=thief, keyid="0" * 16))
    elif attack == "changed":
        document["version"] = 2
    else:
        document["signature"]["sig"] = "zz"
    with pytest.raises(SignatureError):
        job(state_dir, json.dumps(document), kind="accept")
    assert not (state_dir / "desired.json").exists()


def test_an_older_desired_state_and_another_of_the_same_version_are_refused(fleet, state_dir):
    wanted, _ = published(fleet)
    job(state_dir, fleet.desire(5), kind="accept")
    with pytest.raises(RollbackAttackError, match="older than 5"):
        job(state_dir, fleet.desire(4), kind="accept")
    with pytest.raises(RollbackAttackError, match="not the one"):
        job(state_dir, fleet.desire(5, m=wanted), kind="accept")
    job(state_dir, fleet.desire(6), kind="accept")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"device": 3, "version": 1}', "\x00", "{" * 100_000])
def test_garbage_is_a_protocol_error(state_dir, text):
    with pytest.raises(ProtocolError):
        job(state_dir, text, kind="accept")


# -- the publisher's signature


def test_a_bundle_that_no_publisher_signed_is_refused_though_the_fleet_wants_it(fleet, state_dir):
    """A stolen fleet server cannot ship a model nobody signed."""
    published(fleet)
    wanted = fleet.publish(*make_bundle("6.6.6"), sign=False)
    with pytest.raises(TrustError, match="no publisher signed"):
        job(state_dir, fleet.desire(1, m=wanted))


def test_a_publisher_s_key_that_the_root_does_not_name_is_refused(fleet, state_dir):
    manifest, contents = make_bundle("1.0.0")
    wanted = fleet.publish(manifest, contents)
    fleet.publish_metadata(sign_targets_with=CryptoSigner.generate_ed25519())
    with pytest.raises(SignatureError):
        job(state_dir, fleet.desire(1, m=wanted))


def test_mix_and_match_another_file_under_a_signed_name_is_refused(fleet, state_dir):
    published(fleet)
    other = fleet.publish(*make_bundle("1.0.0", license="another"), sign=False)
    with pytest.raises(HashMismatchError, match="than the publisher signed"):
        job(state_dir, fleet.desire(1, m=other))


def test_mix_and_match_metadata_of_two_states_is_refused(fleet, state_dir, server):
    wanted, _ = published(fleet)
    old = server.files["/tuf/metadata/2.targets.json"]
    published(fleet, "2.0.0")
    server.files["/tuf/metadata/3.targets.json"] = old
    with pytest.raises(TrustError):
        job(state_dir, fleet.desire(1, m=wanted))


def test_a_target_of_another_model_is_refused(fleet, state_dir):
    other, _ = published(fleet, model="other")
    with pytest.raises(TrustError, match="wants target"):
        job(state_dir, fleet.desire(1, m=other))


def test_rollback_to_older_metadata_is_refused(fleet, state_dir, server):
    wanted, _ = published(fleet)
    before = dict(server.files)
    newer, _ = published(fleet, "2.0.0")
    job(state_dir, fleet.desire(1, m=newer))
    server.files = before
    with pytest.raises(RollbackAttackError):
        job(state_dir, fleet.desire(2, m=wanted))


def test_rollback_is_refused_even_when_a_power_cut_emptied_every_metadata_file(fleet, state_dir, server):
    wanted, _ = published(fleet)
    before = dict(server.files)
    newer, _ = published(fleet, "2.0.0")
    job(state_dir, fleet.desire(1, m=newer))
    for path in (state_dir / "tuf" / "metadata").rglob("*.json"):
        path.write_bytes(b"")
    current, server.files = server.files, before
    with pytest.raises(RollbackAttackError, match="accepted before"):
        job(state_dir, fleet.desire(2, m=wanted))
    server.files = current
    for path in (state_dir / "tuf" / "metadata").rglob("*.json"):
        path.write_bytes(b"")
    assert job(state_dir, fleet.desire(3, m=newer)).version == "2.0.0"


def test_a_freeze_is_noticed_by_expiry(fleet, state_dir):
    fleet.days["timestamp"] = -1
    wanted, _ = published(fleet)
    with pytest.raises(ExpiredError):
        job(state_dir, fleet.desire(1, m=wanted))


def test_expiry_is_judged_by_the_supervisor_s_clock_where_that_is_later(fleet, state_dir):
    wanted, _ = published(fleet)
    later_ms = int(in_days(200).timestamp() * 1000)
    with pytest.raises(ExpiredError):
        job(state_dir, fleet.desire(1, m=wanted), unix_ms=later_ms)
    assert job(state_dir, fleet.desire(1, m=wanted), unix_ms=1).version == "1.0.0"


def test_the_publisher_s_key_can_be_rotated(fleet, state_dir):
    wanted, _ = published(fleet)
    job(state_dir, fleet.desire(1, m=wanted))
    new = CryptoSigner.generate_ed25519()
    root = fleet.root.signed
    root.revoke_key(fleet.signers["targets"].public_key.keyid, "targets")
    root.add_key(new.public_key, "targets")
    root.version = 2
    fleet.root.sign(fleet.signers["root"])
    fleet._serve("2.root.json", fleet.root.to_bytes())
    fleet.signers["targets"] = new
    newer, _ = published(fleet, "2.0.0")
    assert job(state_dir, fleet.desire(2, m=newer)).version == "2.0.0"


@pytest.mark.parametrize("path", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_endless_metadata_is_cut_off(fleet, state_dir, server, path):
    wanted, _ = published(fleet)
    server.faults[f"/tuf/metadata/{path}"] = ["endless"]
    with pytest.raises(HashMismatchError, match="endless"):
        job(state_dir, fleet.desire(1, m=wanted))


def test_a_damaged_floor_is_an_error_and_not_a_fresh_start(fleet, state_dir):
    wanted, _ = published(fleet)
    job(state_dir, fleet.desire(1, m=wanted))
    (state_dir / "tuf" / "floor.json").write_bytes(b"")
    with pytest.raises(TrustError, match="damaged"):
        job(state_dir, fleet.desire(1, m=wanted))


# -- the manifest


@pytest.mark.parametrize("path", ["../../etc/cron.d/x", "/etc/passwd", "v/../../x", "bundle.json", "a\\b"])
def test_a_signed_manifest_whose_paths_leave_the_bundle_is_refused(fleet, state_dir, path):
    manifest, contents = make_bundle("1.0.0")
    hostile = manifest.replace(b'"v/a.bin"', msgspec.json.encode(path))
    wanted = fleet.publish(hostile, contents)
    with pytest.raises(BundleError):
        job(state_dir, fleet.desire(1, m=wanted))
    assert not list((state_dir / "blobs").glob("[0-9a-f]*"))


def test_a_manifest_of_another_model_than_its_target_is_refused(fleet, state_dir):
    manifest, contents = make_bundle("1.0.0", model="other")
    wanted = fleet.publish(manifest, contents)
    lied = msgspec.structs.replace(wanted, target="m/1.0.0/bundle.json")
    fleet.targets.targets[lied.target] = fleet.targets.targets[wanted.target]
    fleet.targets.targets[lied.target].unrecognized_fields.clear()
    fleet.publish_metadata()
    name = f"{wanted.sha256}.bundle.json"
    fleet.server.files[f"/tuf/targets/m/1.0.0/{name}"] = manifest
    with pytest.raises(BundleError, match="says 'other 1"):
        job(state_dir, fleet.desire(1, m=lied))


@pytest.mark.parametrize("fault", ["wrong", "short", "endless"])
def test_a_manifest_that_is_not_the_signed_one_is_refused(fleet, state_dir, server, fault):
    wanted, _ = published(fleet)
    server.faults[f"/tuf/targets/m/1.0.0/{wanted.sha256}.bundle.json"] = [fault]
    with pytest.raises(HashMismatchError):
        job(state_dir, fleet.desire(1, m=wanted))


def test_when_no_variant_runs_here_the_reasons_say_why_and_no_blob_is_fetched(fleet, state_dir, server):
    manifest, contents = make_bundle("1.0.0")
    named = msgspec.json.decode(manifest)
    named["variants"] = named["variants"][1:]
    wanted = fleet.publish(msgspec.json.encode(named), contents)
    with pytest.raises(NoVariantError) as caught:
        job(state_dir, fleet.desire(1, m=wanted))
    assert "riscv64" in caught.value.reasons[0]
    assert not [path for path, _ in server.asked if "/blobs/" in path]


def test_a_limit_on_bytes_leaves_the_dearer_variants_out(fleet, state_dir):
    manifest, contents = make_bundle("1.0.0")
    named = msgspec.json.decode(manifest)
    del named["variants"][1]["requires"]
    wanted = fleet.publish(msgspec.json.encode(named), contents)
    found = job(state_dir, fleet.desire(1, m=wanted), max_bytes=10_000)
    assert found.variants == ("b",)
    assert "10000 may be used" in found.rejected["a"]
    with pytest.raises(StorageError, match="has room in 10 bytes"):
        job(state_dir, fleet.desire(1, m=wanted), max_bytes=10)


def test_without_room_on_the_disk_nothing_is_fetched(fleet, state_dir, server, monkeypatch):
    wanted, _ = published(fleet)
    monkeypatch.setattr("edgekit.update.download.RESERVE_BYTES", 1 << 60)
    with pytest.raises(StorageError, match="has room in 0 bytes"):
        job(state_dir, fleet.desire(1, m=wanted))
    assert not [path for path, _ in server.asked if "/blobs/" in path]


# -- blobs

BODY = bytes(range(256)) * 4000


@pytest.fixture
def blobs(tmp_path, server):
    server.files["/blob"] = BODY
    patience = Patience(threading.TIMEOUT_MAX, 0.3)
    return Blobs(tmp_path, Web(None, patience), pause=lambda _: None)


def bring(blobs: Blobs, server, body: bytes = BODY, path: str = "/blob") -> int:
    counted = []
    blobs.fetch(server.url + path, digest(body), len(body), counted.append)
    assert (blobs._folder / digest(body)).read_bytes() == body
    assert not list(blobs._partial.iterdir())
    return sum(counted)


@pytest.mark.parametrize("body", [b"", b"x", BODY])
def test_a_blob_is_brought_whole(blobs, server, body):
    server.files["/blob"] = body
    assert bring(blobs, server, body) == len(body)


def test_a_download_that_breaks_off_goes_on_where_it_was(blobs, server):
    server.faults["/blob"] = ["drop", "drop", "busy", "drop"]
    assert bring(blobs, server) == len(BODY)
    ranges = [int(r.removeprefix("bytes=")[:-1]) for _, r in server.asked if r]
    assert ranges == sorted(ranges)
    assert ranges[0] == len(BODY) // 2


def test_a_later_run_goes_on_where_an_earlier_one_was_killed(blobs, server):
    blobs._make_folders()
    (blobs._partial / digest(BODY)).write_bytes(BODY[:700_000])
    assert bring(blobs, server) == len(BODY) - 700_000
    assert server.asked == [("/blob", "bytes=700000-")]


def test_a_server_without_ranges_begins_again(blobs, server):
    server.faults["/blob"] = ["drop", "norange"]
    bring(blobs, server)


def test_a_damaged_beginning_is_fetched_again_from_the_start(blobs, server):
    blobs._make_folders()
    (blobs._partial / digest(BODY)).write_bytes(b"?" * 700_000)
    bring(blobs, server)
    (blobs._folder / digest(BODY)).unlink()
    (blobs._partial / digest(BODY)).write_bytes(b"?" * (len(BODY) + 5))
    bring(blobs, server)


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (["wrong"], HashMismatchError),
        (["endless"], HashMismatchError),
        (["missing"] * 9, ServerError),
        (["busy"] * 9, ServerError),
        (["redirect"] * 9, ServerError),
    ],
)
def test_a_server_that_misbehaves_is_given_up_with_the_reason(blobs, server, faults, error):
    server.faults["/blob"] = faults
    with pytest.raises(error):
        bring(blobs, server)
    assert not (blobs._folder / digest(BODY)).exists()


def test_a_server_that_drips_for_ever_is_left_when_the_time_is_up(tmp_path, server):
    server.files["/blob"] = BODY
    server.faults["/blob"] = ["drip"] * 1000
    web = Web(None, Patience(time.monotonic() + 0.5, 0.2))
    with pytest.raises(LinkError, match="used up"):
        bring(Blobs(tmp_path, web, pause=lambda _: None), server)


def test_a_file_that_ends_too_early_every_time_is_given_up(blobs, server):
    server.files["/blob"] = BODY[:1000]
    with pytest.raises(LinkError):
        bring(blobs, server)


def test_a_job_has_an_end_even_if_the_server_always_says_a_little(tmp_path, server):
    server.files["/blob"] = BODY
    now = iter(range(10_000))
    web = Web(None, Patience(20.0, 1e9, lambda: float(next(now))))
    with pytest.raises(LinkError, match="used up"):
        Blobs(tmp_path, web, pause=lambda _: None).fetch(
            server.url + "/blob", digest(BODY), len(BODY), lambda _: None
        )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up_is_a_storage_error_and_what_came_is_kept(blobs, server):
    blobs._make_folders()
    (blobs._partial / digest(BODY)).symlink_to("/dev/full")
    with pytest.raises(StorageError) as caught:
        bring(blobs, server)
    assert caught.value.retryable


def test_killed_at_any_moment_the_next_run_finishes(fleet, state_dir, server):
    """SIGKILL at growing delays; no blob under its own name is ever anything but whole."""
    wanted, _ = published(fleet, size=3_000_000)
    request = UpdaterRequest(
        kind="fetch", state_dir=str(state_dir), desired=fleet.desire(1, m=wanted), model="m"
    )
    for kill_after in (0.15, 0.2, 0.25, 0.3, 0.35):
        child = subprocess.Popen(
            [sys.executable, "-m", "edgekit.update.updater", "job"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        child.stdin.write(msgspec.json.encode(request) + b"\n")
        child.stdin.flush()
        try:
            child.wait(kill_after)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdin.close()
        for blob in (state_dir / "blobs").glob("[0-9a-f]*"):
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert run_updater(request).variants == ("a", "b")


def test_two_updaters_do_not_work_on_one_device(state_dir):
    from edgekit.update.updater import only_updater

    with (
        only_updater(state_dir),
        pytest.raises(StorageError, match="another updater"),
        only_updater(state_dir, 0.1),
    ):
        pass


def test_supervisor_side_imports_neither_tuf_nor_cryptography_nor_numpy():
    ours = ("update.launch", "update.slots", "update.driver", "update.guards", "update.renewal")
    ours += ("sync.mqtt", "sync.gate")
    heavy = ("tuf", "cryptography", "numpy", "securesystemslib", "urllib3")
    program = "import sys\n" + "".join(f"import edgekit.{name}\n" for name in ours)
    program += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_desired_for_a_model_that_is_not_in_it_is_a_usage_error(fleet, state_dir):
    with pytest.raises(UsageError):
        job(state_dir, fleet.desire(1))


def test_wire_paths_are_those_of_the_fleet():
    assert wire.target_path("m", "1.0.0") == "m/1.0.0/bundle.json"


_WITHOUT = """
import runpy, sys
sys.modules["cryptography"] = None  # as if it were not installed
sys.argv[1:] = ["enroll"]
runpy.run_module("edgekit.update.updater", run_name="__main__")
"""


def test_an_updater_without_its_libraries_says_what_to_install_and_does_not_abort(tmp_path):
    """Its standard input stays open, as the supervisor holds it, while the interpreter ends."""
    order = EnrollOrder(fleet_url="http://127.0.0.1:1", token="t", state_dir=str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", _WITHOUT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    child.stdin.write(msgspec.json.encode(order) + b"\n")
    child.stdin.flush()
    code = child.wait(60)
    failure = json.loads(child.stdout.read())["error"]
    words = child.stderr.read().decode()
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    assert (code, failure["code"]) == (3, "config")
    assert "cryptography" in failure["message"]
    assert "edgekit-runtime[update]" in failure["hint"]
    assert words == ""


def test_a_bug_in_the_updater_is_a_traceback_and_not_an_abort(tmp_path):
    """Whatever ends it, the thread that waits for the supervisor does not make the interpreter abort."""
    program = (
        "import sys, edgekit.update.updater as updater\n"
        "updater.run_job(lambda request, _: request['bug'], dict)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdin.write(b"{}\n")
    child.stdin.flush()
    code = child.wait(60)
    words = child.stderr.read().decode()
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    assert code == 1, words
    assert "Fatal Python error" not in words


def test_enrolling_without_the_libraries_is_refused_before_anything_is_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tuf", None)  # as if it were not installed
    with pytest.raises(ConfigError, match="enrolment needs tuf"):
        run_enroll(EnrollOrder(fleet_url="http://127.0.0.1:1", token="t", state_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
