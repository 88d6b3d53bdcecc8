from __future__ import annotations

import ssl
import stat
import time

import msgspec
import pytest
from update_kit import Authority, Server

from edgekit.core import wire
from edgekit.core.errors import EnrollError, LinkError, ServerError, StorageError, TrustError, UsageError
from edgekit.update.contract import EnrollOrder, Enrolment, UpdaterRequest
from edgekit.update.identity import enroll, finish_renewal, start_renewal
from edgekit.update.launch import run_enroll, run_request, run_updater
from edgekit.update.renewal import put_in_place

TOKEN = "ek1.id.secret"
NAME = "cam-1"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def fleet(authority, tmp_path):
    """A fleet that speaks HTTPS with a certificate of its own CA and enrols whoever has the token."""
    server = Server(authority.server_context(tmp_path))
    server.files["/api/v1/ca"] = authority.pem.encode()
    server.answers["/api/v1/enroll"] = lambda body: (200, wire.encode(answer(authority, body)))
    yield server
    server.stop()


def answer(authority: Authority, body: bytes, **changes) -> wire.EnrollResponse:
    request = wire.decode(body, wire.EnrollRequest)
    assert request.token.startswith(TOKEN)
    found = wire.EnrollResponse(
        device=NAME, certificate=authority.sign(request.csr, NAME), ca=authority.pem,
        broker_url="mqtts://127.0.0.1:8883", metadata_url="https://x/tuf/metadata",
        targets_url="https://x/tuf/targets", root="{}", desired_keys={"a": "b"},
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


def order(server: Server, tmp_path, token: str = TOKEN, **changes) -> EnrollOrder:
    return EnrollOrder(
        fleet_url=server.url, token=token, state_dir=str(tmp_path / "state"), name=NAME, **changes
    )


def test_enrolment_stores_an_identity_that_works_and_pins_the_ca(fleet, authority, tmp_path):
    found = run_enroll(order(fleet, tmp_path, f"{TOKEN}.{authority.sha256}"))
    folder = tmp_path / "state" / "identity"
    assert found.device == NAME
    assert msgspec.json.decode((folder / "enrolment.json").read_bytes(), type=Enrolment) == found
    assert stat.S_IMODE((folder / "device.key").stat().st_mode) == 0o600
    ssl.create_default_context(cafile=str(folder / "ca.crt")).load_cert_chain(
        folder / "device.crt", folder / "device.key"
    )
    life_ms = found.expires_unix_ms - time.time() * 1000
    assert 59 < life_ms / 86_400_000 < 61
    assert 29 < (found.renew_after_unix_ms - time.time() * 1000) / 86_400_000 < 31


def test_enrolling_again_keeps_the_key(fleet, authority, tmp_path):
    token = f"{TOKEN}.{authority.sha256}"
    enroll(order(fleet, tmp_path, token))
    key = (tmp_path / "state" / "identity" / "device.key").read_bytes()
    enroll(order(fleet, tmp_path, token))
    assert (tmp_path / "state" / "identity" / "device.key").read_bytes() == key


def test_a_ca_other_than_the_pinned_one_is_refused_before_the_token_is_sent(fleet, tmp_path):
    with pytest.raises(TrustError, match="not the one that the token pins"):
        enroll(order(fleet, tmp_path, f"{TOKEN}.{'0' * 64}"))
    assert fleet.posted == []


def test_a_man_in_the_middle_who_shows_the_right_ca_but_has_no_certificate_of_it_is_refused(
    authority, tmp_path
):
    thief = Server(Authority("thief").server_context(tmp_path))
    thief.files["/api/v1/ca"] = authority.pem.encode()
    with pytest.raises(TrustError):
        enroll(order(thief, tmp_path, f"{TOKEN}.{authority.sha256}"))
    assert thief.posted == []
    thief.stop()


def test_a_certificate_for_another_name_names_the_flag_that_mends_it(fleet, authority, tmp_path):
    job = order(fleet, tmp_path, f"{TOKEN}.{authority.sha256}")
    elsewhere = job.fleet_url.replace("127.0.0.1", "localhost")
    with pytest.raises(TrustError, match="is not for 'localhost'") as caught:
        enroll(msgspec.structs.replace(job, fleet_url=elsewhere))
    assert "--public-host localhost" in caught.value.hint
    assert fleet.posted == []


def test_a_device_without_a_link_is_enrolled_by_a_request_and_an_answer_that_are_carried(authority, tmp_path):
    job = EnrollOrder(token=TOKEN, state_dir=str(tmp_path / "state"), name=NAME)
    request = run_request(job)
    carried = wire.CarriedEnrolment("https://fleet", answer(authority, wire.encode(request)))
    found = run_enroll(EnrollOrder(answer=wire.encode(carried).decode(), state_dir=job.state_dir))
    assert (found.device, found.fleet_url) == (NAME, "https://fleet")
    assert (tmp_path / "state/identity/enrolment.json").exists()


def test_an_answer_for_another_key_or_that_is_none_is_refused(authority, tmp_path):
    one, other = (EnrollOrder(token=TOKEN, state_dir=str(tmp_path / name)) for name in ("one", "other"))
    run_request(other)
    foreign = wire.CarriedEnrolment("https://fleet", answer(authority, wire.encode(run_request(one))))
    with pytest.raises(TrustError, match="not for this device's key"):
        enroll(EnrollOrder(answer=wire.encode(foreign).decode(), state_dir=other.state_dir))
    with pytest.raises(EnrollError, match="not a fleet's answer"):
        enroll(EnrollOrder(answer="{}", state_dir=other.state_dir))
    assert not (tmp_path / "other/identity/enrolment.json").exists()


def test_without_a_pin_https_must_prove_itself_to_the_system(fleet, tmp_path):
    with pytest.raises(TrustError):
        enroll(order(fleet, tmp_path))
    assert fleet.posted == []


def test_over_plain_http_the_pin_still_checks_the_answer(authority, tmp_path):
    server = Server()
    server.answers["/api/v1/enroll"] = lambda body: (200, wire.encode(answer(authority, body)))
    assert enroll(order(server, tmp_path, f"{TOKEN}.{authority.sha256}")).device == NAME
    with pytest.raises(TrustError):
        enroll(order(server, tmp_path, f"{TOKEN}.{'1' * 64}"))
    server.stop()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (403, b'{"title": "Forbidden", "detail": "the claim is used up"}', EnrollError, "used up"),
        (422, b"<html>", EnrollError, "status 422"),
        (503, b"{}", ServerError, "status 503"),
        (200, b"{}", EnrollError, "answer to the enrolment is not valid"),
        (200, b"x" * (2 << 20), LinkError, "longer than"),
    ],
)
def test_a_refusal_says_why(tmp_path, status, body, error, said):
    server = Server()
    server.answers["/api/v1/enroll"] = lambda _: (status, body)
    with pytest.raises(error, match=said):
        enroll(order(server, tmp_path))
    assert not (tmp_path / "state" / "identity" / "enrolment.json").exists()
    server.stop()


def test_a_certificate_for_another_key_name_or_from_another_ca_is_refused(authority, tmp_path):
    server = Server()
    wrong = [
        {"certificate": authority.issue(authority.key.public_key(), NAME)},
        {"device": "another"},
        {"ca": Authority("other").pem},
        {"certificate": "no certificate"},
    ]
    for changes in wrong:
        server.answers["/api/v1/enroll"] = lambda body, changes=changes: (
            200, wire.encode(answer(authority, body, **changes)),
        )  # fmt: skip
        with pytest.raises(TrustError):
            enroll(order(server, tmp_path))
    assert not (tmp_path / "state" / "identity" / "enrolment.json").exists()
    server.stop()


@pytest.mark.parametrize("token", ["", "x", "ek2.a.b", "ek1.a", "ek1..b", "ek1.a.b.c.d"])
def test_a_token_that_is_not_one_is_a_usage_error(tmp_path, token):
    with pytest.raises(UsageError):
        enroll(EnrollOrder(fleet_url="http://127.0.0.1:1", token=token, state_dir=str(tmp_path)))


def test_a_fleet_that_is_not_there_is_a_link_error(tmp_path):
    with pytest.raises(LinkError):
        enroll(EnrollOrder(fleet_url="http://127.0.0.1:1", token=TOKEN, state_dir=str(tmp_path)))


def test_a_damaged_key_is_not_replaced_silently(fleet, tmp_path):
    folder = tmp_path / "state" / "identity"
    folder.mkdir(parents=True)
    (folder / "device.key").write_bytes(b"")
    with pytest.raises(StorageError, match="damaged"):
        enroll(order(fleet, tmp_path, TOKEN))


# -- renewal


@pytest.fixture
def enrolled(authority, tmp_path):
    server = Server()
    server.answers["/api/v1/enroll"] = lambda body: (200, wire.encode(answer(authority, body)))
    identity = enroll(order(server, tmp_path))
    server.stop()
    return tmp_path / "state", identity


def test_a_renewal_brings_a_new_key_and_certificate(enrolled, authority):
    state_dir, _ = enrolled
    before = (state_dir / "identity" / "device.key").read_bytes()
    request = UpdaterRequest(kind="renew", state_dir=str(state_dir))
    csr = run_updater(request).csr
    assert run_updater(request).csr.startswith("-----BEGIN CERTIFICATE REQUEST")
    pem = authority.sign(csr, NAME)
    found = run_updater(msgspec.structs.replace(request, certificate=pem))
    assert found.certificate_expires_unix_ms > time.time() * 1000
    folder = state_dir / "identity"
    assert (folder / "device.key").read_bytes() != before
    assert (folder / "device.crt").read_text() == pem
    assert sorted(p.name for p in folder.iterdir()) == [
        "ca.crt",
        "device.crt",
        "device.key",
        "enrolment.json",
    ]
    ssl.create_default_context().load_cert_chain(folder / "device.crt", folder / "device.key")
    with pytest.raises(UsageError, match="no renewal"):
        run_updater(msgspec.structs.replace(request, certificate=pem))


def test_a_renewed_certificate_that_is_not_for_this_key_changes_nothing(enrolled, authority):
    state_dir, identity = enrolled
    start_renewal(state_dir, identity)
    before = (state_dir / "identity" / "device.crt").read_bytes()
    with pytest.raises(TrustError):
        finish_renewal(state_dir, identity, authority.issue(authority.key.public_key(), NAME))
    assert (state_dir / "identity" / "device.crt").read_bytes() == before


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_renewal_that_was_cut_is_finished_by_the_next_start(enrolled, authority, done):
    """After the certificate is stored: before the first rename, between the two, after both."""
    state_dir, identity = enrolled
    folder = state_dir / "identity"
    pem = authority.sign(start_renewal(state_dir, identity), NAME)
    (folder / "next.crt").write_text(pem)
    if done >= 1:
        (folder / "next.key").replace(folder / "device.key")
    if done >= 2:
        (folder / "next.crt").replace(folder / "device.crt")
    assert put_in_place(state_dir) == (done < 2)
    ssl.create_default_context().load_cert_chain(folder / "device.crt", folder / "device.key")
    assert (folder / "device.crt").read_text() == pem
    assert not put_in_place(state_dir)


def test_a_renewed_ca_of_the_same_key_is_taken_with_the_renewal(enrolled, authority):
    state_dir, identity = enrolled
    renewed = Authority()
    renewed.key, renewed.name = authority.key, authority.name
    renewed.certify()
    pem = authority.sign(start_renewal(state_dir, identity), NAME)
    finish_renewal(state_dir, identity, pem, renewed.pem)
    assert (state_dir / "identity" / "ca.crt").read_text() == renewed.pem != authority.pem
    assert (state_dir / "identity" / "device.crt").read_text() == pem


def test_a_ca_of_another_key_is_never_taken(enrolled, authority):
    """Whoever speaks as the fleet for a moment cannot make the device trust another authority."""
    state_dir, identity = enrolled
    pem = authority.sign(start_renewal(state_dir, identity), NAME)
    stranger = Authority()  # the same name, another key
    with pytest.raises(TrustError, match="renewed CA"):
        finish_renewal(state_dir, identity, pem, stranger.pem)
    assert (state_dir / "identity" / "ca.crt").read_text() == authority.pem
