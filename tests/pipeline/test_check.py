"""Tables are checked in the threads of a worker's pipelines."""

import subprocess
import sys

FIRST_USES = """
import sys, threading, typing, msgspec
from edgekit.pipeline.check import Options, check_table

sys.setswitchinterval(1e-6)
for number in range(3000):
    fields = [(f"f{n}", typing.Union[int, str, None], None) for n in range(20)]
    inner = msgspec.defstruct(f"Inner{number}", fields, frozen=True)
    body = {"__annotations__": {"rows": tuple[inner, ...]}, "rows": ()}
    kind, both = type(f"Outer{number}", (Options,), body, kw_only=True, frozen=True), threading.Barrier(2)

    def use():
        both.wait()
        check_table({"rows": [{}]}, kind, "table", [])

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_two_threads_may_be_the_first_to_use_a_type():
    """msgspec 0.22 alone crashes the process of it, within some hundred types."""
    done = subprocess.run([sys.executable, "-c", FIRST_USES], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
