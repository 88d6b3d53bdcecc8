"""A bundle that is carried to a device in a file is trusted by the same signatures as one over a link."""

from __future__ import annotations

import io
import tarfile

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from update_kit import make_bundle

from edgekit.core.errors import (
    BundleError,
    HashMismatchError,
    LinkError,
    RollbackAttackError,
    SignatureError,
    TrustError,
)
from edgekit.update.carried import DESIRED, METADATA, bring, carried_desired
from edgekit.update.contract import UpdaterRequest, carried_folder
from edgekit.update.slots import Slots
from edgekit.update.updater import Job


def members(fleet, manifest, contents, desired):
    """Return what edgekit-fleet export puts into the file."""
    served = {path: data for path, data in fleet.server.files.items() if "metadata/" in path}
    trust = {f"{METADATA}{path.rpartition('/')[2]}": data for path, data in served.items()}
    return {"bundle.json": manifest, **contents, DESIRED: desired.encode(), **trust}


def write(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def install(state_dir, path):
    """Do what the agent does with the file; the fleet's server is not asked."""
    bring(path, state_dir)
    folder = carried_folder(state_dir)
    request = UpdaterRequest(
        kind="fetch",
        state_dir=str(state_dir),
        desired=(folder / "desired.json").read_text(),
        model="m",
        carried=str(folder / "bundle.ekb"),
    )
    return Job(request, lambda _: None).run()


@pytest.fixture
def carried(fleet, state_dir, tmp_path):
    """Return a function that writes the file of a published bundle, changed by its caller."""
    manifest, contents = make_bundle("1.0.0")
    target = fleet.publish(manifest, contents)

    def make(change=lambda _: None, **desire):
        files = members(fleet, manifest, contents, fleet.desire(1, m=target, **desire))
        change(files)
        fleet.server.files.clear()  # nothing comes over the link
        return write(tmp_path / "carried.ekb", files)

    return make


def test_a_carried_bundle_is_installed_without_a_link(carried, state_dir):
    result = install(state_dir, carried())
    assert (result.model, result.version) == ("m", "1.0.0")
    slots = Slots(state_dir)
    slots.stage("m", "1.0.0", result.manifest_sha256)
    assert slots.commit("m", "1.0.0").active.version == "1.0.0"


def test_a_plain_bundle_carries_no_trust_and_is_refused(state_dir, tmp_path):
    manifest, contents = make_bundle("1.0.0")
    plain = write(tmp_path / "plain.ekb", {"bundle.json": manifest, **contents})
    with pytest.raises(SignatureError, match="carries no desired state") as caught:
        carried_desired(plain)
    assert "edgekit-fleet export" in caught.value.hint


def test_a_desired_state_of_another_key_or_device_is_refused(carried, state_dir):
    with pytest.raises(SignatureError):
        install(state_dir, carried(key=Ed25519PrivateKey.generate()))
    with pytest.raises(TrustError, match="is for device 'other'"):
        install(state_dir, carried(device="other"))


def test_a_bundle_that_no_publisher_signed_is_refused(fleet, state_dir, tmp_path):
    manifest, contents = make_bundle("1.0.0")
    target = fleet.publish(manifest, contents, sign=False)
    files = members(fleet, manifest, contents, fleet.desire(1, m=target))
    with pytest.raises(TrustError, match="no publisher signed"):
        install(state_dir, write(tmp_path / "c.ekb", files))


def test_metadata_of_another_publisher_is_refused(fleet, carried, state_dir):
    fleet.publish_metadata(sign_targets_with=CryptoSigner.generate_ed25519())
    with pytest.raises(TrustError):
        install(state_dir, carried())


def test_a_changed_file_is_refused(carried, state_dir):
    def change(files):
        files["v/a.bin"] = b"x" * len(files["v/a.bin"])

    with pytest.raises(HashMismatchError):
        install(state_dir, carried(change))


def test_a_changed_manifest_is_refused(carried, state_dir):
    def change(files):
        manifest = msgspec.json.decode(files["bundle.json"])
        files["bundle.json"] = msgspec.json.encode(manifest | {"task": "detect"})

    with pytest.raises((HashMismatchError, LinkError)):
        install(state_dir, carried(change))


def test_an_older_file_than_was_accepted_is_refused(fleet, carried, state_dir, tmp_path):
    old = carried()
    manifest, contents = make_bundle("2.0.0")
    target = fleet.publish(manifest, contents)
    newer = write(tmp_path / "n.ekb", members(fleet, manifest, contents, fleet.desire(2, m=target)))
    assert install(state_dir, newer).version == "2.0.0"
    with pytest.raises(RollbackAttackError):
        install(state_dir, old)


def test_a_member_that_neither_bundle_nor_trust_lists_is_refused(carried, state_dir):
    with pytest.raises(BundleError, match="does not hold what its manifest lists"):
        install(state_dir, carried(lambda files: files.update({"extra.bin": b"x"})))


def test_a_file_that_is_cut_off_is_refused(carried, state_dir):
    path = carried()
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(BundleError):
        install(state_dir, path)
    assert not carried_folder(state_dir).exists()
