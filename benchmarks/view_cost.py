"""What somebody who watches the page costs a pipeline: its frame rate with a watcher and without, in turn.

One pipeline runs the zoo's int8 classifier with LiteRT on made-up pictures of 1280 x 720, as fast as it can,
with one thread. A process of its own asks the page for frame after frame, as a browser does, for some
seconds; then it pauses for as long; and so on. The claim: with a watcher the pipeline makes at least 0.95 of
its frames (the median of pairs). Beside it stands the rate with a page that nobody watches.

    python benchmarks/view_cost.py [--bundle PATH] [--pairs N] [--json]
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from _report import finish, parser
from footprint import build_bundle

from edgekit.agent.worker import viewing
from edgekit.agent.worker.runner import run_pipeline
from edgekit.agent.worker.viewing import PageOptions
from edgekit.core.ports import Result
from edgekit.pipeline import view
from edgekit.pipeline.config import parse_config
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.picture import thumbnail

BAR = 0.95
WINDOW_S = 2.0
SETTLE_S = 0.5
PIPELINE = """
[pipeline]
name = "watched"
model = "{bundle}"
[model]
variant = "{variant}"
threads = 1
[source]
kind = "synthetic"
width = 1280
height = 720
"""


def watch(link: str) -> None:
    """Ask for frames while the last line of stdin was ``on``; count them on stdout."""
    parts, is_on, count = urlsplit(link), threading.Event(), 0
    headers = {"Authorization": "Bearer " + parts.query.partition("=")[2]}

    def obey() -> None:
        for line in sys.stdin:
            (is_on.set if line.strip() == "on" else is_on.clear)()

    threading.Thread(target=obey, daemon=True).start()
    connection, number = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60), 0
    while is_on.wait():
        connection.request("GET", f"/page/pipelines/watched/frame?after={number}", headers=headers)
        body = connection.getresponse().read()
        number, count = (
            int(body[4 : 4 + int.from_bytes(body[:4], "big")].split(b":")[1].split(b",")[0]),
            count + 1,
        )
        print(count, len(body), flush=True)


@contextlib.contextmanager
def watcher(link: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a watcher that waits; yield it and the bytes of each frame that it gets."""
    command, sizes = [sys.executable, __file__, "--watch", link], []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout is not None
        sizes.extend(int(line.split()[1]) for line in process.stdout)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    yield process, sizes
    process.kill()
    process.wait()
    reader.join()


def tell(process: subprocess.Popen[str], word: str) -> None:
    """Turn a watcher on or off, and let the pipeline settle."""
    assert process.stdin is not None
    print(word, file=process.stdin, flush=True)
    time.sleep(SETTLE_S)


def rate(loop: Loop) -> float:
    """Return the frames a second over one window."""
    before, began_s = loop.tally.processed, time.monotonic()
    time.sleep(WINDOW_S)
    return (loop.tally.processed - before) / (time.monotonic() - began_s)


def measure(args: Any, bundle: Path, pairs: int) -> dict[str, Any]:
    """Run the pipeline; return the rates of each pair."""
    links: list[str] = []
    found: dict[str, Any] = {}

    @contextlib.contextmanager
    def measured(loop: Loop) -> Iterator[None]:
        def follow() -> None:
            try:
                found.update(_follow(loop, links[0], pairs))
            finally:
                loop.stop()

        thread = threading.Thread(target=follow)
        thread.start()
        yield
        thread.join()

    text = PIPELINE.format(bundle=bundle, variant=args.variant)
    run_pipeline(parse_config(text), page=PageOptions(port=0, on_open=links.append), watch=measured)
    return found


def _follow(loop: Loop, link: str, pairs: int) -> dict[str, Any]:
    with watcher(link) as (process, sizes):
        while loop.tally.processed < 20:
            time.sleep(0.05)
        rows = []
        for _ in range(pairs):
            tell(process, "on")
            seen, began_s = len(sizes), time.monotonic()
            watched = rate(loop)
            shown = (len(sizes) - seen) / (time.monotonic() - began_s)
            tell(process, "off")
            rows.append(
                {"watched": round(watched, 1), "alone": round(rate(loop), 1), "shown": round(shown, 1)}
            )
    return {"pairs": rows, "frame_bytes": round(statistics.median(sizes or [0]))}


def sabotage() -> None:
    """Encode every frame in the pipeline's own thread."""
    write = view.ViewSink.write

    def slow(sink: view.ViewSink, result: Result) -> None:
        write(sink, result)
        if sink.latest() is not None and sink._wakes:  # noqa: SLF001 - the planted fault
            for _ in range(3):
                thumbnail(result.frame.data, viewing.SIDE_PX, viewing.MOST_BYTES)

    view.ViewSink.write = slow  # type: ignore[method-assign]


def main() -> int:
    """Measure, print, and return the exit code."""
    if sys.argv[1:2] == ["--watch"]:
        watch(sys.argv[2])
        return 0
    options = parser(__doc__, full="30 pairs", sabotage="every frame is encoded in the pipeline's own thread")
    options.add_argument("--bundle", type=Path, help="built from the zoo (efficientnet-lite0) if not given")
    options.add_argument("--variant", default="litert-int8")
    options.add_argument("--pairs", type=int, default=8)
    args = options.parse_args()
    if args.sabotage:
        sabotage()
    with tempfile.TemporaryDirectory(prefix="edgekit-view-") as folder:
        bundle = (args.bundle or build_bundle(Path(folder))).resolve()
        detail = measure(args, bundle, 30 if args.full else args.pairs)
    value = round(statistics.median(row["watched"] / row["alone"] for row in detail["pairs"]), 3)
    holds = value >= BAR and min(row["shown"] for row in detail["pairs"]) > 5
    claim = "frames of a pipeline while a browser watches it, against nobody watching"
    return finish(claim, value, "of its rate", BAR, holds, detail, args.json)


if __name__ == "__main__":
    sys.exit(main())
