"""Debian's mosquitto as a fleet's broker, with the files that the fleet manager writes for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from edgekit_fleet.broker.embedded import free_port

_PATIENCE_S = 15.0


class Mosquitto:
    """A mosquitto for the fleet manager of a folder; it listens on the same port each time."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
        if program is None:
            raise SystemExit("--broker mosquitto: there is none here: apt-get install mosquitto")
        self._program, self._folder = program, folder
        port = folder / "mosquitto.port"
        if not port.exists():
            port.write_text(str(free_port()))
        self.url = f"mqtts://127.0.0.1:{port.read_text()}"

    def start(self) -> None:
        """Start it, once the fleet manager has written its files; it waits 20 s for its broker."""
        written = self._folder / "fleet" / "mosquitto" / "mosquitto.conf"
        until_s = time.monotonic() + _PATIENCE_S
        while not written.exists():  # put there whole, after all others
            if time.monotonic() > until_s:
                raise SystemExit(f"the fleet manager did not write {written}")
            time.sleep(0.02)
        configuration = self._folder / "mosquitto.conf"
        user = (
            "user root\n" if os.geteuid() == 0 else ""
        )  # else it becomes a user who may not read the folder
        configuration.write_text(written.read_text() + user)
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(configuration)], stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
