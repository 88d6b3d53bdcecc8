"""Before a fleet moves, every device is told where to; certificates have the old name and the new one."""

import pytest
from cryptography import x509
from fleet_kit import LocalFleet

from edgekit.core import wire
from edgekit_fleet.app.options import Options

TO = {"url": "http://127.0.0.1:9", "broker_url": "mqtts://127.0.0.1:10"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with LocalFleet(tmp_path_factory.mktemp("moving")) as running:
        yield running


def told(fleet, device):
    desired = fleet.fleet.services.rollouts.desired.of_device(device)
    return desired and desired.config.get("addresses")


def test_every_device_is_told_and_who_has_accepted_is_counted(fleet):
    assert fleet.get("move") == {"url": "", "broker_url": "", "devices": 0, "accepted": 0}
    fleet.enroll("early")
    assert fleet.post("move", **TO) == {**TO, "devices": 1, "accepted": 0}
    fleet.enroll("late")
    want = {
        "fleet_url": TO["url"],
        "broker_url": TO["broker_url"],
        "metadata_url": f"{TO['url']}/tuf/metadata",
        "targets_url": f"{TO['url']}/tuf/targets",
    }
    assert told(fleet, "early") == told(fleet, "late") == want
    services = fleet.fleet.services
    version = services.rollouts.desired.of_device("early").version
    birth = wire.Birth(online=True, boot="b", conn=1, desired=version)
    services.devices.take_birth("early", birth, 1)
    assert fleet.get("move") == {**TO, "devices": 2, "accepted": 1}
    fleet.post("move", **TO)  # once more changes nothing
    assert services.rollouts.desired.of_device("early").version == version


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://127.0.0.1:9"},  # the fleet speaks plain HTTP
        {"broker_url": "mqtt://127.0.0.1:10"},  # no device gives up TLS
        {"url": "ftp://x"},
        {"url": "http://x/path"},
        {"broker_url": "mqtts://a b"},
    ],
)
def test_an_address_of_another_kind_is_refused(fleet, wrong):
    assert fleet.client.post("/api/v1/move", json={**TO, **wrong}).status_code == 422


def test_the_certificates_have_the_names_that_devices_may_still_use(tmp_path):
    assert "old.example" in Options(data=tmp_path, other_hosts=("old.example",)).hosts
    with LocalFleet(tmp_path) as fleet:
        certificate, _ = fleet.fleet.authority.server_files("broker", ["new.example", "old.example"])
        names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
        alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
        assert alternatives.get_values_for_type(x509.DNSName) == ["new.example", "old.example"]
