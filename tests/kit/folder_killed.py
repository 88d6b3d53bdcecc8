"""A pipeline on a folder of pictures that kills itself on a given line of its own code.

``python folder_killed.py`` reads a JSON list from its input for each run: the folder, the line of the
``WATCHED`` files before which the run is killed (they are counted as they run; 0 for none), and an address
for sink ``http``, or "". It answers with the signal that ended the run, or with how many such lines it ran.
"""

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from pipeline_fakes import ArrayBackend, make_manifest, make_variant, spec

from edgekit.pipeline.events import Debounce
from edgekit.pipeline.finisher import Rules
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.predictor import Predictor
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.http import HttpOptions
from edgekit.pipeline.sinks.jsonl import JsonlOptions
from edgekit.pipeline.sinks.sqlite import SqliteOptions
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.folder import FolderOptions, FolderSource

WATCHED = (
    *("done_list", "finisher", "receipt", "sources.folder"),
    *("sinks.jsonl", "sinks.sqlite", "sinks.http"),
)
OTHERS = ("edgekit.base.line_file", "edgekit.sync.webhook")
LABELS = ("a", "b", "c")


class OnceSource(FolderSource):
    """Ends the run when what is there is done."""

    def __init__(self, folder, stop):
        options = FolderOptions(uri=str(folder / "in"), poll_s=0.005, settle_s=0.0)
        super().__init__(options, SourceContext(state=folder / "state"))
        self._stop, self._left = stop, 0

    def open(self):
        super().open()
        self._left = len(self._ready)
        if not self._left:
            self._stop()

    def finished(self, identity):
        super().finished(identity)
        self._left -= 1
        if not self._left:
            self._stop()


def predictor():
    """Return a model that says which of three greys a picture has, so that each picture is an event."""

    def scores(feeds):
        grey = int(next(iter(feeds.values())).flat[0]) // 80
        return {"scores": np.eye(3, dtype=np.float32)[[grey]]}

    manifest = make_manifest(outputs=(spec("scores", (1, 3)),))
    return Predictor(
        manifest, make_variant(), ArrayBackend(manifest.inputs, manifest.outputs, scores), LABELS
    )


def sinks(folder, url):
    """Return the sinks, and what is to be closed after them."""
    from edgekit.sync.address import SystemClock
    from edgekit.sync.ledger import Ledger
    from edgekit.sync.publishers import Publishers

    egress = ("labels",)
    context = SinkContext(pipeline="p", folder=folder, state=folder / "state", egress=egress)
    sections = [
        ("jsonl", JsonlOptions(path="results.jsonl", max_mb=0.002)),
        ("jsonl", JsonlOptions(path="events.jsonl", what="events")),
        ("sqlite", SqliteOptions(path="seen.sqlite", tables=("events", "frames"))),
    ]
    publishers = Publishers("p", egress, Ledger(folder / "state/ledger.sqlite", SystemClock()))
    if url:
        context = SinkContext(
            pipeline="p", folder=folder, state=folder / "state", egress=egress, post=publishers.post
        )
        sections.append(("http", HttpOptions(url=url)))
    return [make_sink(kind, options, context) for kind, options in sections], publishers


def counting(kill_at):
    """Return a trace function that ends this process before a line, and what counts the lines."""
    names = [*(f"edgekit.pipeline.{name}" for name in WATCHED), *OTHERS]
    files = {importlib.import_module(name).__file__ for name in names}
    count = [0]

    def line(_frame, event, _argument):
        if event == "line":
            count[0] += 1
            if count[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    return lambda frame, _event, _argument: line if frame.f_code.co_filename in files else None, count


def run(folder, url, kill_at):
    """Run until every picture is done, or the line is reached; return how many lines that were."""
    trace, count = counting(kill_at)
    written, publishers = sinks(folder, url)
    loop = Loop(
        "p",
        OnceSource(folder, lambda: loop.stop()),  # noqa: PLW0108 - there is no loop yet
        predictor(),
        written,
        rules=Rules(debounce=Debounce(appear=1, window=1)),
    )
    threading.settrace(trace)
    loop.run()
    threading.settrace(None)
    publishers.close()
    return count[0]


def main():
    """Run for each line of the input, in a fork of its own."""
    while request := sys.stdin.readline():
        folder, kill_at, url = json.loads(request)
        child = os.fork()
        if not child:
            print(json.dumps({"lines": run(Path(folder), url, kill_at)}), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            print(json.dumps({"signal": os.WTERMSIG(status)}), flush=True)
        elif os.WEXITSTATUS(status):
            print(json.dumps({"code": os.WEXITSTATUS(status)}), flush=True)


if __name__ == "__main__":
    main()
