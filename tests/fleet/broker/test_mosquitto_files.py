"""The files for mosquitto: written once, complete, and enough for mosquitto to serve the fleet."""

import shutil
import subprocess

from fleet_kit import ROOT, composed, free_port, wait_until

from edgekit_fleet.broker.mqtt import Access, MqttLink


def test_a_fleet_writes_what_its_mosquitto_needs_and_leaves_it(tmp_path):
    port = free_port()
    url = f"mqtts://127.0.0.1:{port}"
    with composed(tmp_path / "data", broker=url):
        pass
    config = tmp_path / "data" / "mosquitto" / "mosquitto.conf"
    before = {path.name: path.read_bytes() for path in config.parent.iterdir()}
    with composed(tmp_path / "data", broker=url) as fleet:
        assert {path.name: path.read_bytes() for path in config.parent.iterdir()} == before
        config.write_text(config.read_text() + "user root\n")
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([program, "-c", str(config)], stderr=log, stdout=log)
        try:
            wait_until(lambda: b"running" in (tmp_path / "log").read_bytes(), "mosquitto")
            fleet.downlink.start()
            assert fleet.downlink.is_connected
        finally:
            process.terminate()
            process.wait(10)


def test_the_files_in_deploy_are_those_that_the_code_writes():
    from edgekit_fleet.broker.mosquitto import ACCESS_LIST

    assert (ROOT / "fleet" / "deploy" / "mosquitto" / "acl").read_text() == ACCESS_LIST


def test_a_link_needs_no_broker_to_be_made():
    MqttLink(Access("mqtts://127.0.0.1:1"), "nobody").stop()
