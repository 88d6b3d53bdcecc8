"""A Raspberry Pi's own camera (CSI), by picamera2, which is a part of Raspberry Pi OS."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Reopener


class Picamera2Options(Options, frozen=True, kw_only=True):
    """``[source]`` of a CSI camera.

    ``uri``: its number. ``fps`` 0 leaves the camera's own rate. ``give_up_s``: how long to retry a camera
    that fails; 0 is forever.
    """

    uri: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,2}$")] = "0"
    width: Annotated[int, msgspec.Meta(ge=32, le=16_384)] = 640
    height: Annotated[int, msgspec.Meta(ge=32, le=16_384)] = 480
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0


class Picamera2Source:
    """Frames of a CSI camera, with the time at which the sensor was read."""

    Options = Picamera2Options
    is_live = True

    def __init__(
        self,
        options: Picamera2Options,
        context: SourceContext,  # noqa: ARG002 - every source takes one
    ) -> None:
        self._options = options
        self._closing = threading.Event()
        self._camera: Any = None
        self._seq = 0
        name = f"picamera2 {options.uri!r}"
        self.reopener = Reopener(name, self._opened, options.give_up_s, self._closing)

    @property
    def due_s(self) -> float | None:
        """Seconds within which a frame is due; None while the camera is being reopened."""
        return None if self.reopener.is_waiting else DUE_S

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the camera."""
        return self.reopener.state()

    def open(self) -> None:
        """Open the camera."""
        self._camera = self.reopener.first()

    def _opened(self) -> Any:
        library, options = picamera2(), self._options
        rate = {"FrameRate": options.fps} if options.fps else {}
        try:
            camera = library.Picamera2(int(options.uri))
            # picamera2 calls the order of bytes B, G, R "RGB888"
            main = {"size": (options.width, options.height), "format": "RGB888"}
            camera.configure(camera.create_video_configuration(main=main, controls=rate, buffer_count=2))
            camera.start()
        except (RuntimeError, IndexError, OSError) as cause:
            raise SourceError(
                f"picamera2 {options.uri!r}: cannot be opened: {cause}",
                hint="does `rpicam-hello --list-cameras` show it, and does no other program use it?",
            ) from cause
        return camera

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        while not self._closing.is_set() and self._camera is not None:
            try:
                request = self._camera.capture_request()
                try:
                    pixels, facts = request.make_array("main"), request.get_metadata()
                finally:
                    request.release()
            except (RuntimeError, OSError) as cause:
                self._camera.close()
                self._camera = self.reopener.again(str(cause))
                continue
            self._seq += 1
            return self._frame(pixels, facts)
        if self._camera is not None:
            self._camera.close()
        return None

    def _frame(self, pixels: Any, facts: dict[str, Any]) -> Frame:
        now_ns = time.monotonic_ns()
        # the sensor's time is of CLOCK_BOOTTIME, which also counts suspended time
        age_ns = max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - facts.get("SensorTimestamp", 0))
        age_ns = age_ns if "SensorTimestamp" in facts else 0
        unix_ms = (time.time_ns() - age_ns) // 1_000_000
        return Frame(pixels, self._seq - 1, now_ns - age_ns, unix_ms, {"capture_ms": age_ns / 1e6})

    def close(self) -> None:
        """End a wait; the reader frees the camera with its next frame."""
        self._closing.set()


def picamera2() -> Any:
    """Return the module.

    Raises:
        ConfigError: It is not there.
    """
    try:
        import picamera2 as library
    except ImportError as cause:
        raise ConfigError(
            f"source 'picamera2' needs picamera2: {cause}",
            hint="on Raspberry Pi OS: sudo apt install python3-picamera2, in an environment made with"
            ' --system-site-packages; elsewhere use kind = "camera"',
        ) from cause
    return library
