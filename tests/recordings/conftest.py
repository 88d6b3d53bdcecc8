"""A browser, as the tests of the fleet's web UI drive it, and a web server for the videos that it plays."""

import functools
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fleet" / "registry"))
sys.path.insert(0, str(Path(__file__).parents[1] / "fleet"))
sys.path.insert(0, str(Path(__file__).parents[1] / "fleet" / "ui"))

from browser import Browser, missing_browser

PAGE = """<!doctype html><title>player</title><video muted></video><script>
async function play(name) {
  const video = document.querySelector("video");
  const ended = new Promise((done, failed) => {
    video.onended = done;
    video.onerror = () => failed(video.error.code + " " + video.error.message);
  });
  video.src = name;
  await video.play();
  video.playbackRate = 8;
  await ended;
  const {totalVideoFrames} = video.getVideoPlaybackQuality();
  return [video.videoWidth, video.videoHeight, video.currentTime, totalVideoFrames];
}
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def player(tmp_path_factory):
    """Play a video in Chromium to its end; width, height, length in s, and the number of frames shown."""
    if reason := missing_browser():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("player")
    (folder / "play.html").write_text(PAGE)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")

    def play(path):
        (folder / "video.mp4").write_bytes(path.read_bytes())
        browser.open(f"http://127.0.0.1:{server.server_address[1]}/play.html")
        return browser.run("return await play('video.mp4')")

    yield play
    browser.close()
    server.shutdown()
    server.server_close()
