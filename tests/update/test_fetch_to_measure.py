"""Bundles that are brought to be measured: signed like any other, and never installed."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile
from update_kit import digest, make_bundle

from edgekit.core import wire
from edgekit.core.errors import HashMismatchError, NoVariantError, SignatureError, StorageError, TrustError
from edgekit.core.spec import BackendFact, Facts, Profile
from edgekit.update.contract import UpdaterRequest
from edgekit.update.slots import Slots
from edgekit.update.updater import Job

FACTS = Facts(arch="x86_64", backends=(BackendFact(name="onnxruntime", version="1.20", works=True),))
PROFILE = Profile(id="generic", title="any")


def publish_to_measure(fleet, version="1.0.0", *, target="", sign_targets_with=None, **custom):
    """Sign a bundle for measuring as the publisher does; returns the job's request fields."""
    manifest, contents = make_bundle(version)
    path = target or wire.measuring_path("m", digest(manifest))
    signed = TargetFile.from_data(path, manifest, ["sha256"])
    signed.unrecognized_fields["custom"] = {"model": "m", "version": version, "purpose": "measure", **custom}
    fleet.targets.targets[path] = signed
    fleet.publish_metadata(sign_targets_with=sign_targets_with)
    name = digest(manifest)
    fleet.server.files[f"/tuf/targets/measure/m/{name}/{name}.bundle.json"] = manifest
    fleet.server.files[f"/tuf/targets/m/{version}/{name}.bundle.json"] = manifest
    for data in contents.values():
        fleet.server.files[f"/tuf/targets/blobs/{digest(data)}"] = data
    return {"version": version, "target": path, "sha256": name, "bytes": len(manifest)}


def bring(state_dir, area, *, model="m", facts=FACTS, **fields):
    request = UpdaterRequest(
        kind="measure", state_dir=str(state_dir), area=str(area), model=model, facts=facts, profile=PROFILE,
        **fields,
    )  # fmt: skip
    return Job(request, lambda _: None).run()


@pytest.fixture
def area(state_dir):
    return state_dir / "measuring"


def test_it_is_brought_to_a_place_of_its_own_and_touches_no_slot(fleet, state_dir, area):
    found = bring(state_dir, area, **publish_to_measure(fleet))
    assert found.variants == ("a",)
    assert "riscv64" in found.rejected["b"]
    assert (Slots(area).stage("m", "1.0.0", found.manifest_sha256) / "v/a.bin").exists()
    assert not (state_dir / "blobs").exists()
    assert not (state_dir / "slots").exists()
    assert not (state_dir / "desired.json").exists()


def test_a_bundle_that_may_be_installed_may_be_measured_too(fleet, state_dir, area):
    wanted = fleet.publish(*make_bundle("1.0.0"))
    fields = {"version": "1.0.0", "target": wanted.target, "sha256": wanted.sha256, "bytes": wanted.bytes}
    assert bring(state_dir, area, **fields).variants == ("a",)


@pytest.mark.parametrize("how", ["path", "purpose"])
def test_no_fleet_can_have_it_installed(fleet, state_dir, how):
    """A stolen fleet directs a device to a target that was signed for measuring."""
    fields = publish_to_measure(fleet, target="m/1.0.0/bundle.json" if how == "purpose" else "")
    wanted = wire.DesiredModel("1.0.0", fields["target"], fields["sha256"], fields["bytes"])
    request = UpdaterRequest(
        kind="fetch", state_dir=str(state_dir), desired=fleet.desire(1, m=wanted), model="m"
    )
    with pytest.raises(TrustError, match="signed for 'measure'" if how == "purpose" else "wants target"):
        Job(request, lambda _: None).run()
    assert not (state_dir / "blobs").exists()


def test_what_no_publisher_signed_is_not_even_fetched(fleet, state_dir, area, server):
    fields = publish_to_measure(fleet)
    other, _ = make_bundle("1.0.1")
    unsigned = {**fields, "sha256": digest(other), "target": wire.measuring_path("m", digest(other))}
    with pytest.raises(TrustError, match="no publisher signed"):
        bring(state_dir, area, **unsigned)
    with pytest.raises(TrustError, match="wants target"):
        bring(state_dir, area, **{**fields, "target": "../../etc"})
    with pytest.raises(HashMismatchError):
        bring(state_dir, area, **{**fields, "bytes": fields["bytes"] + 1})
    assert not any("/targets/" in path for path, _ in server.asked)


def test_another_key_than_the_publishers_is_refused(fleet, state_dir, area):
    stranger = CryptoSigner(Ed25519PrivateKey.generate())
    with pytest.raises(SignatureError):
        bring(state_dir, area, **publish_to_measure(fleet, sign_targets_with=stranger))


def test_signed_for_another_model_it_is_refused(fleet, state_dir, area):
    with pytest.raises(TrustError, match="signed as 'other'"):
        bring(state_dir, area, **publish_to_measure(fleet, model="other"))


def test_without_room_or_a_fitting_variant_nothing_is_brought(fleet, state_dir, area):
    fields = publish_to_measure(fleet)
    with pytest.raises(StorageError, match="has room in 1000 bytes"):
        bring(state_dir, area, max_bytes=1000, **fields)
    with pytest.raises(NoVariantError):
        bring(state_dir, area, facts=Facts(arch="mips"), **fields)
    held = [path.name for path in (area / "blobs").iterdir() if path.is_file()]
    assert held == [fields["sha256"]]
    assert json.loads((area / "blobs" / held[0]).read_bytes())["version"] == "1.0.0"
