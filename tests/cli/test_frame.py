"""What every command has in common: exit codes, one document, interrupts, broken pipes."""

import argparse
import json
import os
import subprocess
import sys
import types

import pytest

from edgekit.base.command_line import Command, Program, Report, run_program
from edgekit.cli.main import BUILT_IN, commands, main
from edgekit.core import errors
from edgekit.core.errors import ConfigError
from edgekit.version import __version__

CODES = {
    errors.UsageError: 2,
    errors.ConfigError: 3,
    errors.SourceError: 3,
    errors.StorageError: 3,
    errors.ModelError: 4,
    errors.BundleError: 4,
    errors.TensorError: 4,
    errors.NoVariantError: 4,
    errors.GoldenError: 4,
    errors.BackendError: 5,
    errors.AcceleratorLostError: 5,
    errors.InferenceError: 5,
    errors.TrustError: 6,
    errors.SignatureError: 6,
    errors.HashMismatchError: 6,
    errors.RollbackAttackError: 6,
    errors.LinkError: 7,
    errors.ProtocolError: 7,
    errors.ServerError: 7,
    errors.EnrollError: 7,
    errors.GateError: 8,
}
"""Design 4.1: what a script may rely on."""


def program(run, add_arguments=lambda parser: None):
    module = types.SimpleNamespace(add_arguments=add_arguments, run=run)
    return Program("toy", "A toy.", "1.0", "toy play", {"play": Command("play", "toy play", lambda: module)})


def raising(error):
    def run(_):
        raise error

    return program(run)


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=lambda value: getattr(value, "__name__", value))
def test_every_class_of_error_ends_the_command_with_its_documented_code(kind, code, capsys):
    error = kind("the thing is wrong", reasons=("one", "two"), hint="do this")
    assert run_program(raising(error), ["play", "--json"]) == code
    out, err = capsys.readouterr()
    told = {"code": kind.code, "message": "the thing is wrong", "reasons": ["one", "two"], "hint": "do this"}
    assert json.loads(out) == {"error": told}
    for part in ("the thing is wrong", "one", "two", "fix: do this", f"code: {kind.code}"):
        assert part in err


def test_no_class_of_error_is_without_a_documented_code():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.EdgekitError)]
    assert {kind.exit_code for kind in kinds} == {1, *CODES.values()}
    assert [kind for kind in kinds if kind.exit_code == 1] == [errors.EdgekitError]


def test_without_json_an_error_leaves_stdout_empty(capsys):
    assert run_program(raising(ConfigError("wrong", hint="mend it")), ["play"]) == 3
    assert capsys.readouterr().out == ""


def test_a_file_that_the_system_refuses_is_named_and_is_no_traceback(tmp_path, capsys):
    absent = tmp_path / "absent"
    assert run_program(program(lambda _: absent.read_text()), ["play", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["message"]) == ("config.storage", f"{absent}: No such file or directory")


def test_a_bug_is_not_hidden_behind_an_error_for_people():
    with pytest.raises(ZeroDivisionError):
        run_program(program(lambda _: 1 / 0), ["play"])


def test_an_interrupt_is_130_and_no_traceback(capsys):
    assert run_program(raising(KeyboardInterrupt()), ["play"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("code", [0, 4, 8])
def test_an_outcome_has_its_code_and_its_document_or_its_text(code, capsys):
    toy = program(lambda _: Report({"holds": code == 0}, "so it went", code))
    assert run_program(toy, ["play", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == {"holds": code == 0}
    assert run_program(toy, ["play"]) == code
    assert capsys.readouterr().out == "so it went\n"


def test_a_commands_commands_take_the_common_flags_too(capsys):
    def add_arguments(parser):
        parser.add_subparsers(dest="action", required=True).add_parser("ball")

    def run(args: argparse.Namespace):
        return Report({"action": args.action, "verbose": args.verbose}, "")

    assert run_program(program(run, add_arguments), ["play", "ball", "--json", "--verbose"]) == 0
    assert json.loads(capsys.readouterr().out) == {"action": "ball", "verbose": True}


def test_the_version_and_the_list_of_commands_are_told(edgekit):
    assert edgekit("--version").out == f"edgekit {__version__}\n"
    listed = edgekit("--help")
    assert listed.code == 0
    for name in (*BUILT_IN, "optimize", "zoo"):
        assert f"    {name} " in listed.out


def test_without_a_command_people_read_what_it_is_for_and_each_command_under_its_group(edgekit):
    done = edgekit()
    assert (done.code, done.out) == (2, "")
    first, _, *lines = done.err.splitlines()
    assert "Run compressed models on edge devices" in first
    headings = [n for n, line in enumerate(lines) if line and not line.startswith(" ")][:-1]
    assert [lines[n] for n in headings] == ["this machine", "models", "running them", "on a workstation"]
    for name, row in commands().items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert row.summary in line
    assert "edgekit COMMAND --help" in lines[-1]


@pytest.mark.parametrize("words", [["agent"], ["run"], ["verify"], ["explain"], ["bench"], ["serve"]])
def test_a_missing_word_is_a_usage_error_that_says_which(words, edgekit):
    done = edgekit(*words)
    assert (done.code, done.out) == (2, "")
    assert "the following arguments are required" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["profiles"], 0),
        (["profiles", "--json"], 0),
        (["--help"], 0),
        (["profiles", "rpi9", "--json"], 2),
        (["verify", "/nothing", "--json"], 4),
    ],
)
def test_a_reader_that_has_seen_enough_is_no_error(words, code):
    """As ``edgekit profiles | head -0``: nothing on stderr but the command's own error."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.cli.main", *words],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == code, done.stderr
    assert "pipe" not in done.stderr.lower()
    assert "Traceback" not in done.stderr


# -- commands of other distributions


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Install a distribution of one module with commands, as an installer leaves it."""

    def install(points, **modules):
        info = tmp_path / "toys-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[edgekit.commands]\n" + points)
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    return install


ECHO = """
from edgekit.base.command_line import Report

def add_arguments(parser):
    parser.add_argument("word")

def run(args):
    return Report({"said": args.word}, args.word)
"""


def test_a_command_that_a_package_adds_runs_as_a_built_in_one(distribution, edgekit):
    distribution("echo-toy = toys_echo\n", toys_echo=ECHO)
    assert edgekit("echo-toy", "hello", "--json").document == {"said": "hello"}
    assert edgekit("echo-toy", "hello").out == "hello\n"
    assert edgekit("echo-toy").code == 2
    assert "added by toys_echo" in edgekit("--help").out


def test_a_package_does_not_take_a_built_in_commands_name(distribution, edgekit):
    distribution("profiles = toys_profiles\n", toys_profiles=ECHO)
    assert "this_machine" in edgekit("profiles", "--json").document


def test_a_command_of_a_broken_package_is_exit_3_and_names_the_package(distribution, edgekit):
    distribution("broken-toy = toys_broken\n", toys_broken="import a_module_that_nobody_has\n")
    done = edgekit("broken-toy", "--json")
    assert (done.code, done.error["code"]) == (3, "config")
    assert "toys_broken" in done.error["message"]
    assert "a_module_that_nobody_has" in done.error["message"]


@pytest.mark.parametrize("name", ["optimize", "zoo"])
def test_a_command_whose_distribution_is_missing_says_what_to_install(name, edgekit, monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: ())
    done = edgekit(name, "--json")
    assert done.code == 3
    assert f"'edgekit {name}'" in done.error["message"]
    assert "edgekit-optimize" in done.error["hint"]
    assert main([name, "--help"]) == 3, "help of a command that is not there would promise what fails"


def test_words_may_stand_before_and_after_options(tmp_path, capsys):
    """As in ``edgekit import MODEL... -o BUNDLE KEY=VALUE``, the form that the documents give."""
    missing = tmp_path / "model.onnx"
    assert main(["import", str(missing), "-o", str(tmp_path / "b"), "color=BGR"]) == 4
    assert "model.onnx" in capsys.readouterr().err
    assert main(["import", str(missing), "-o", str(tmp_path / "b"), "--colour"]) == 2
    assert "unrecognized arguments: --colour" in capsys.readouterr().err
