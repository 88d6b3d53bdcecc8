"""Child processes: answers, errors and deaths come back as what they are, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from edgekit.base.child import Child, ChildFault, exit_reason, signal_name
from edgekit.base.failures import Failure, error_of, failure_of
from edgekit.core import errors
from edgekit.core.errors import EdgekitError, ServerError, UsageError

KIT = Path(__file__).parents[1] / "kit"
ENVIRONMENT = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(KIT), *filter(None, sys.path)])}
CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgekitError)),
    key=lambda kind: kind.__name__,
)


def odd_child(**more):
    return Child("odd_child", environment=ENVIRONMENT, log=subprocess.DEVNULL, **more)


def ask(kind=str, timeout_s=60.0, **request):
    with odd_child() as child:
        return child.ask(request, kind, timeout_s)


def is_alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def gone(*pids):
    deadline_s = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return True


def test_progress_comes_before_the_result():
    seen = []
    with odd_child() as child:
        found = child.ask({"do": "answer", "text": "ä"}, str, 60, lambda data: seen.append(bytes(data)))
    assert (found, seen) == ("ä", [b'{"done":1}', b'{"done":2}'])


def test_a_request_larger_than_a_pipe_and_its_answer_arrive_whole():
    text = "x" * 3_000_000
    assert ask(do="answer", text=text) == text


def test_what_a_library_prints_does_not_spoil_the_answer():
    assert ask(do="print", text='{"result": "not this"}') == "still understood"


def test_an_error_of_each_class_comes_back_as_that_class():
    for kind in CLASSES:
        error = error_of(
            msgspec.json.decode(
                msgspec.json.encode(failure_of(kind("a", reasons=("b",), hint="c"))), type=Failure
            )
        )
        assert (type(error), error.message, error.reasons, error.hint) == (kind, "a", ("b",), "c")


@pytest.mark.parametrize("name", ["TrustError", "StorageError", "GateError", "EdgekitError"])
def test_a_child_raises_in_its_parent_and_ends_with_the_code_of_the_error(name):
    child = odd_child()
    with pytest.raises(getattr(errors, name)) as caught, child:
        child.ask({"do": "raise", "class": name}, str, 60)
    assert (caught.value.message, caught.value.reasons, caught.value.hint) == (
        "what",
        (r"why \udcff",),
        "way out",
    )


def test_a_code_that_nobody_knows_is_of_the_class_that_is_asked_for():
    assert type(error_of(Failure("new.code", "x"))) is EdgekitError
    assert type(error_of(Failure("new.code", "x"), ServerError)) is ServerError


@pytest.mark.parametrize(
    ("do", "how", "code"),
    [
        ("crash", "ended without a result (killed by SIGSEGV)", -11),
        ("bug", "ended without a result (exit code 1)", 1),
    ],
)
def test_a_child_that_dies_says_how(do, how, code):
    with pytest.raises(ChildFault) as caught:
        ask(do=do, text="")
    assert (str(caught.value), caught.value.code) == (how, code)


@pytest.mark.parametrize("do", ["hang", "chatter"])
def test_a_child_that_hangs_or_talks_for_ever_is_killed_in_time(do):
    child = odd_child()
    with pytest.raises(ChildFault, match="was not done within 1.5 s") as caught, child:
        child.ask({"do": do}, str, 1.5)
    assert caught.value.code is None
    assert not is_alive(child.pid)


def test_a_child_that_never_reads_does_not_hold_up_its_parent():
    child = Child("timeit", ["-n1", "-r1", "__import__('time').sleep(600)"], log=subprocess.DEVNULL)
    with pytest.raises(ChildFault, match="was not done within"), child:
        child.ask("x" * 3_000_000, str, 0.5)
    assert not is_alive(child.pid)


@pytest.mark.parametrize(
    "line", ["rubbish", '{"result": {"on', "[]", '{"result": 5}', '{"error": "x"}', "\xff"]
)
def test_what_is_not_the_protocol_is_named_and_ends_the_child(line):
    write = f"sys.stdout.buffer.write({line!r}.encode('latin-1') + b'\\n')"
    code = f"import sys, time; {write}; sys.stdout.flush(); time.sleep(600)"
    child = Child("timeit", ["-n1", "-r1", code], log=subprocess.DEVNULL)
    with pytest.raises(ChildFault, match="does not keep the protocol") as caught, child:
        child.ask(None, str, 60)
    assert caught.value.code is None
    assert not is_alive(child.pid)


def test_a_request_of_another_type_is_a_usage_error():
    with pytest.raises(UsageError, match="request: .*want a table"), odd_child() as child:
        child.ask("not a table", str, 60)


def test_another_thread_can_kill_it():
    with odd_child() as child:
        threading.Timer(0.1, child.kill).start()
        with pytest.raises(ChildFault, match=r"ended without a result \(killed by SIGKILL\)"):
            child.ask({"do": "hang"}, str, 60)
        child.kill()  # twice is safe


@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_group_ends_with_its_leader_and_with_its_parent(tmp_path, how):
    pids = tmp_path / "pids"
    child = odd_child(arguments=["group"], leads_group=True)

    def end(_):
        if how == "killed":
            child.kill()
        else:
            child._requests.close()
            raise InterruptedError

    with pytest.raises((ChildFault, InterruptedError)):
        child.ask({"do": "with_grandchild", "pids": str(pids)}, str, 60, end)
    assert gone(*map(int, pids.read_text().split()))
    child.close()


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    program = (
        "from edgekit.base.child import Child\n"
        f"Child('odd_child').ask({{'do': 'with_grandchild', 'pids': {str(tmp_path / 'pids')!r}}}, str, 600,"
        " lambda _: print('started', flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert parent.stdout.readline() == b"started\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child, grandchild = map(int, (tmp_path / "pids").read_text().split())
    assert gone(child)  # it leads no group here, so that what it started is its own affair
    os.kill(grandchild, signal.SIGKILL)


def test_a_closed_child_leaves_no_descriptor_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    child = odd_child()
    child.close()
    child.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_exit_codes_and_signals_have_words():
    assert exit_reason(0) == "exit code 0"
    assert exit_reason(-9) == "killed by SIGKILL"
    assert signal_name(200) == "signal 200"
