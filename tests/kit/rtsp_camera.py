"""A camera for the tests: ``rtsp_server.py`` as a child process, and the clock in its pictures read back."""

import shutil
import signal
import subprocess
import time
import zlib
from pathlib import Path

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE = "import gi; gi.require_version('GstRtspServer', '1.0')"


def needs_rtsp_server():
    """Skip the test where GStreamer's RTSP server is not installed."""
    if (
        not shutil.which(SYSTEM_PYTHON)
        or subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True, check=False).returncode
    ):
        pytest.skip("no RTSP server: packaging/system_packages.sh as root")


class Camera:
    """A running RTSP server; ``options`` are ``rtsp_server.py``'s. ``prefix`` runs before it."""

    def __init__(self, *options, prefix=(), host="127.0.0.1"):
        self._options, self._prefix, self._host = list(options), list(prefix), host
        self._process, self.port = None, 0
        self.start()

    def start(self, *options):
        """Start it, again on the same port; ``options`` come on top of its own."""
        script = Path(__file__).with_name("rtsp_server.py")
        command = [*self._prefix, SYSTEM_PYTHON, str(script), "--host", self._host, "--port", str(self.port)]
        self._process = subprocess.Popen([*command, *self._options, *options], stdout=subprocess.PIPE)
        self.port = int(self._process.stdout.readline())

    def uri(self, path="door", scheme="rtsp", login=""):
        return f"{scheme}://{login}{self._host}:{self.port}/{path}"

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def close(self):
        if self._process.poll() is None:
            self.kill()


def burnt_ms(pixels):
    """Return the monotonic milliseconds that a picture shows; None where its checksum is wrong."""
    height, width = pixels.shape[0] // 6, pixels.shape[1] // 8
    bits = 0
    for row in range(6):
        for column in range(8):
            y, x = row * height + height // 2, column * width + width // 2
            bits = bits << 1 | int(pixels[y - 2 : y + 3, x - 2 : x + 3].mean() > 128)
    now_ms = bits >> 16
    return now_ms if zlib.crc32(now_ms.to_bytes(4, "big")) & 0xFFFF == bits & 0xFFFF else None


def age_s(pixels):
    """Return how many seconds ago the picture was painted; None where its clock cannot be read."""
    painted_ms = burnt_ms(pixels)
    return None if painted_ms is None else (int(time.monotonic() * 1000) - painted_ms) / 1000


def descriptors():
    """Return how many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
