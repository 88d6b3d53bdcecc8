"""A child process that does what a test asks of it: ``python -m odd_child``."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgekit.base.child import run_job
from edgekit.core import errors


def _answer(request, progress):
    progress({"done": 1})
    progress({"done": 2})
    return request["text"]


def _raise(request, _):
    raise getattr(errors, request["class"])("what", reasons=("why \udcff",), hint="way out")


def _bug(request, _):
    raise KeyError(request["text"])


def _crash(_, __):
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(_, __):
    time.sleep(600)


def _chatter(_, progress):
    while True:
        progress(0)


def _print(request, _):
    print(request["text"], flush=True)
    subprocess.run(["echo", request["text"]], check=True)
    return "still understood"


def _with_grandchild(request, progress):
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(request["pids"]).write_text(f"{os.getpid()} {grandchild.pid}")
    progress("started")
    grandchild.wait()


_DEEDS = {
    name.removeprefix("_"): deed
    for name, deed in list(vars().items())
    if name.startswith("_") and callable(deed)
}


if __name__ == "__main__":
    sys.exit(
        run_job(
            lambda request, tell: _DEEDS[request["do"]](request, tell), dict, leads_group="group" in sys.argv
        )
    )
