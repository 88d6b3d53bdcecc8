"""Enrolment: a claim and a key become a device, once; certificates say no more than they must."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from fleet_kit import Identity

from edgekit.core import wire
from edgekit.core.errors import ConfigError, EnrollError, UsageError
from edgekit.core.spec import DEVICE_ID, Facts
from edgekit_fleet.identity.authority import Authority, read_csr
from edgekit_fleet.identity.enrol import Enrolment
from edgekit_fleet.identity.journal import Journal
from edgekit_fleet.store.database import Database
from edgekit_fleet.store.devices import Devices
from edgekit_fleet.store.tokens import Tokens

NOW_MS = 1_000


class Office:
    """An enrolment with its stores."""

    def __init__(self, folder):
        self.database = Database(folder / "a.sqlite")
        self.authority = Authority(folder / "ca")
        self.devices, self.tokens = Devices(self.database), Tokens(self.database)
        self.disconnected, self.reopened = [], 0
        self.enrolment = Enrolment(
            self.database,
            self.authority,
            self.devices,
            self.tokens,
            Journal(folder),
            self,
        )

    def shut(self, device):
        self.disconnected.append(device)

    def reopen(self):
        self.reopened += 1

    def claim(self, uses=1):
        return self.tokens.create_claim(NOW_MS, NOW_MS * 10, uses=uses)

    def enroll(self, claim, identity, name="", now_ms=NOW_MS, **more):
        return self.enrolment.enroll(wire.EnrollRequest(claim, identity.csr(), name, **more), now_ms)


@pytest.fixture
def office(tmp_path):
    found = Office(tmp_path)
    yield found
    found.database.close()


def test_a_certificate_names_the_device_and_is_good_for_a_client_only(office):
    device, pem, is_new = office.enroll(office.claim(), Identity(), "cam-1", hardware=Facts(arch="aarch64"))
    assert (device, is_new) == ("cam-1", True)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "cam-1"
    ca = x509.load_pem_x509_certificate(office.authority.certificate_pem.encode())
    builder = PolicyBuilder().store(Store([ca]))
    verified = builder.build_client_verifier().verify(certificate, [])
    assert verified.subjects[0].value == "urn:edgekit:device:cam-1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    life = certificate.not_valid_after_utc - dt.datetime.now(dt.timezone.utc)
    assert dt.timedelta(days=89) < life < dt.timedelta(days=91)
    assert office.devices.documents("cam-1")["hardware"]["arch"] == "aarch64"


def test_the_same_key_and_claim_get_the_same_answer_again(office):
    claim, identity = office.claim(), Identity()
    first = office.enroll(claim, identity, "cam-1")
    again = office.enroll(claim, identity, "another-name", now_ms=NOW_MS * 100)
    assert again == (*first[:2], False)


def test_another_key_cannot_use_a_claim_that_is_used_up(office):
    claim = office.claim()
    office.enroll(claim, Identity())
    with pytest.raises(EnrollError, match="used up"):
        office.enroll(claim, Identity())
    assert office.devices.counts()["total"] == 1


@pytest.mark.parametrize(
    "name", ["cam-1", "", "../../etc", "a b/c", "ö" * 70, "x" * 65, "a.b", "ek/v1/+/up/#"]
)
def test_a_name_that_is_taken_or_not_valid_becomes_one_that_is(office, name):
    claim = office.claim(uses=2)
    office.enroll(claim, Identity(), "cam-1")
    device, _, _ = office.enroll(claim, Identity(), name)
    assert device != "cam-1"
    assert DEVICE_ID.fullmatch(device)


def _request(key, hash_=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hash_ or hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _forged():
    """A signing request of someone else's key: one byte of its signature differs."""
    der = x509.load_pem_x509_csr(_request(ec.generate_private_key(ec.SECP256R1())).encode())
    raw = bytearray(der.public_bytes(serialization.Encoding.DER))
    raw[-1] ^= 1
    return x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        ("", "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("x" * 20_000, "at most"),
        (_request(rsa.generate_private_key(65537, 2048)), "not P-256"),
        (_request(ec.generate_private_key(ec.SECP384R1())), "not P-256"),
        (_forged(), "not signed by its own key"),
    ],
)
def test_a_signing_request_without_proof_of_a_p256_key_is_refused(csr, reason):
    with pytest.raises(EnrollError, match=reason):
        read_csr(csr)


def test_a_renewed_certificate_may_be_for_a_new_key(office):
    office.enroll(office.claim(), Identity(), "cam-1")
    fresh = Identity()
    pem = office.enrolment.renew("cam-1", fresh.csr())
    assert x509.load_pem_x509_certificate(pem.encode()).public_key() == fresh.key.public_key()
    assert len(office.devices.certificates("cam-1")) == 2


def test_a_revoked_device_gets_no_certificate(office):
    claim, identity = office.claim(), Identity()
    office.enroll(claim, identity, "cam-1")
    office.devices.revoke("cam-1")
    with pytest.raises(EnrollError, match="revoked"):
        office.enroll(claim, identity, "cam-1")
    with pytest.raises(EnrollError, match="revoked"):
        office.enrolment.renew("cam-1", identity.csr())
    with pytest.raises(EnrollError, match="not enrolled"):
        office.enrolment.renew("nobody", identity.csr())


def test_the_ca_stays_the_same_and_its_key_is_private(tmp_path):
    first, second = Authority(tmp_path), Authority(tmp_path)
    assert first.sha256 == second.sha256
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_a_damaged_ca_is_told(tmp_path, name):
    Authority(tmp_path)
    (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="cannot be read"):
        Authority(tmp_path)


def test_a_ca_interrupted_while_it_was_made_is_made_anew(tmp_path):
    Authority(tmp_path)
    (tmp_path / "ca.crt").unlink()
    assert Authority(tmp_path).sha256


def test_a_server_certificate_is_good_for_every_name_it_is_reached_by(tmp_path):
    authority = Authority(tmp_path)
    path, key = authority.server_files("http", ["fleet.example", "127.0.0.1", "::1", "127.0.0.1"])
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    ca = x509.load_pem_x509_certificate(authority.certificate_path.read_bytes())
    for subject in (x509.DNSName("fleet.example"), x509.IPAddress(__import__("ipaddress").ip_address("::1"))):
        PolicyBuilder().store(Store([ca])).build_server_verifier(subject).verify(certificate, [])
    assert key.stat().st_mode & 0o077 == 0


def test_a_device_that_enrols_again_with_its_key_keeps_its_name_and_leaves_no_twin(office):
    identity = Identity()
    office.enroll(office.claim(), identity, "cam-1")
    claim = office.claim()
    device, pem, is_new = office.enroll(claim, identity, "cam-1")
    assert (device, is_new) == ("cam-1", False)
    assert x509.load_pem_x509_certificate(pem.encode()).public_key() == identity.key.public_key()
    assert office.devices.counts()["total"] == 1
    with pytest.raises(EnrollError, match="used up"):  # the second claim is used like any other
        office.enroll(claim, Identity())


def test_enrolling_again_with_a_renewed_key_is_the_same_device_too(office):
    office.enroll(office.claim(), Identity(), "cam-1")
    renewed = Identity()
    office.enrolment.renew("cam-1", renewed.csr())
    assert office.enroll(office.claim(), renewed, "another")[0] == "cam-1"


def test_a_revoked_device_does_not_come_back_with_another_claim(office):
    identity = Identity()
    office.enroll(office.claim(), identity, "cam-1")
    assert office.enrolment.revoke("cam-1", NOW_MS)
    claim = office.claim()
    with pytest.raises(EnrollError, match="revoked"):
        office.enroll(claim, identity, "cam-1")
    assert next(one for one in office.tokens.claims() if one.id == claim.split(".")[1]).uses == 0


def test_a_revocation_is_in_the_journal_before_the_connection_is_closed(office, tmp_path):
    office.enroll(office.claim(), Identity(), "cam-1")
    assert office.enrolment.revoke("cam-1", NOW_MS + 1)
    assert Journal(tmp_path).since(NOW_MS + 1).revoked == ["cam-1"]
    assert office.disconnected == ["cam-1"]
    assert not office.enrolment.revoke("nobody", NOW_MS)


def test_a_deleted_device_needs_a_new_claim_and_bars_its_old_certificates(office):
    claim, identity = office.claim(), Identity()
    _, pem, _ = office.enroll(claim, identity, "cam-1", now_ms=NOW_MS)
    serial = f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"
    assert not office.devices.is_barred(serial)
    assert office.enrolment.delete("cam-1", NOW_MS)
    assert office.devices.is_barred(serial)
    assert Devices(office.database).is_barred(serial)  # after a restart, too
    with pytest.raises(EnrollError, match="used up"):
        office.enroll(claim, identity, "cam-1")
    assert office.enroll(office.claim(), identity, "cam-1")[0::2] == ("cam-1", True)
    assert not office.enrolment.delete("nobody", NOW_MS)


def test_a_machine_with_a_new_disk_takes_its_old_name_with_a_claim_for_it_and_leaves_no_twin(office):
    before, after = Identity(), Identity()
    _, pem, _ = office.enroll(office.claim(), before, "cam-1")
    claim = office.tokens.create_claim(NOW_MS, NOW_MS * 10, device="cam-1")
    assert office.enroll(claim, after, "another-name")[0::2] == ("cam-1", True)
    assert office.devices.counts()["total"] == 1
    assert office.devices.is_barred(f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}")
    assert office.disconnected == ["cam-1"]
    assert office.enroll(claim, after, "")[0::2] == ("cam-1", False)  # the answer was lost, asked again
    with pytest.raises(EnrollError, match="used up"):
        office.enroll(claim, before, "cam-1")


@pytest.mark.parametrize("wrong", [{"uses": 2}, {"device": "a/b"}])
def test_a_claim_in_the_place_of_a_device_is_for_one_machine(office, wrong):
    with pytest.raises(UsageError):
        office.tokens.create_claim(NOW_MS, NOW_MS * 10, **{"device": "cam-1", **wrong})
