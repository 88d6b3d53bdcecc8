"""Cameras' passwords are fetched over TLS, or on this machine, and otherwise not asked for."""

import math

import pytest

from edgekit.base.http import Patience, Web
from edgekit.core.errors import ConfigError, LinkError
from edgekit.update.cameras import fetch_cameras
from edgekit.update.contract import Enrolment, fetched_cameras


def fetch(folder, fleet_url):
    identity = Enrolment(
        device="box",
        fleet_url=fleet_url,
        broker_url="",
        metadata_url="",
        targets_url="",
        root="",
        desired_keys={},
    )
    fetch_cameras(folder, identity, "0" * 64, Web(None, Patience(math.inf, 5.0), silence_s=5.0))


@pytest.mark.parametrize("url", ["http://fleet.example:8080", "http://10.0.0.1", "http://127.0.0.1.example/"])
def test_passwords_are_not_fetched_without_tls_from_another_machine(tmp_path, url):
    with pytest.raises(ConfigError, match="without TLS"):
        fetch(tmp_path, url)
    assert not (tmp_path / "identity").exists(), "nothing was signed"


@pytest.mark.parametrize("url", ["https://127.0.0.1:9", "http://127.0.0.1:9", "http://localhost:9"])
def test_a_fleet_that_is_not_there_is_asked_again_later_and_leaves_nothing(tmp_path, url):
    with pytest.raises(LinkError) as caught:
        fetch(tmp_path, url)
    assert caught.value.retryable
    assert not fetched_cameras(tmp_path).exists()
