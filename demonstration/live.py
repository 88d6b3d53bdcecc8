"""What a camera sees, in a browser and from the first seconds on: faces are found, and hidden."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path

from demonstration.device import video_pipeline
from demonstration.processes import Child, wait_for
from edgekit.core.errors import ServerError

FPS = 10
"""Enough for the eye, and little beside three devices on the same cores."""
OPENS_S = 30.0
_MARK = "view: "


class LivePage:
    """``edgekit run --view`` on a recording, in a process of its own until it is stopped.

    Args:
        bundle: The model; everything it finds is hidden before anybody sees a picture.
        video: What it looks at, again and again, at its own pace.
        folder: For the pipeline's file.
        logs: Folder for its log.
        cache: Folder for proofs and measured costs.
    """

    def __init__(self, bundle: Path, video: Path, folder: Path, logs: Path, cache: Path) -> None:
        pipeline = folder / "live.toml"
        pipeline.write_text(video_pipeline("live", video, FPS, model=str(bundle), redact="*"), "utf-8")
        program = str(Path(sys.executable).with_name("edgekit"))
        command = [program, "run", str(pipeline), "--view", "--view-port", "0", "--json"]
        self.child = Child("live", command, logs, {"EDGEKIT_CACHE": str(cache)})

    def link(self, timeout_s: float = OPENS_S) -> str:
        """Wait until the page answers, and return the link that opens it.

        Raises:
            ServerError: Its process ended, or the page did not open in time.
        """
        link: str = wait_for("the live page opens", self._link, timeout_s, poll_s=0.1)
        return link

    def _link(self) -> str:
        if self.child.process.poll() is not None:
            raise ServerError("the live page's process ended", hint=f"see {self.child.log}")
        lines = self.child.log.read_text("utf-8", "replace").splitlines()
        return next((line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)), "")

    def stop(self) -> None:
        """End it; safe to call twice."""
        self.child.stop()


def open_browser(
    link: str, environment: Mapping[str, str], browse: Callable[[str], bool] = webbrowser.open_new_tab
) -> bool:
    """Open a link where this machine has a screen; return whether a browser was started.

    Source: freedesktop.org: a session with a screen has ``DISPLAY`` (X11) or ``WAYLAND_DISPLAY``; without
    one Python would start a text browser in this terminal.
    """
    has_screen = sys.platform != "linux" or any(
        environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return has_screen and browse(link)
