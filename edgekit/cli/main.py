"""The table of ``edgekit``'s commands; a command's module is imported when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgekit.base.command_line import Command, Program, command, run_program
from edgekit.cli.installed import other_commands
from edgekit.version import __version__

# name: (group, what it does, example); its module is edgekit.cli.NAME, other distributions add more
BUILT_IN: dict[str, tuple[str, str, str]] = {
    "doctor": (
        "this machine",
        "find the hardware, prove each backend, say what to fix",
        "edgekit doctor",
    ),
    "cameras": (
        "this machine",
        "list the cameras that are attached or on the network, their streams, and the one to use",
        "edgekit cameras --user admin --password-file camera.password",
    ),
    "profiles": ("this machine", "list the known boards, or show one", "edgekit profiles rpi5"),
    "selftest": (
        "this machine",
        "test hardware, backends and models, load all cores, and write a report",
        "edgekit selftest person-detect.ekb --report pi5.json",
    ),
    "explain": (
        "models",
        "say which variant is chosen, and why each other one is not",
        "edgekit explain person-detect.ekb --profile rpi5",
    ),
    "import": (
        "models",
        "make a bundle of a model that another tool exported (ONNX, TFLite, OpenVINO)",
        "edgekit import yolo11n.onnx -o yolo11n.bundle --try pictures/",
    ),
    "bundle": (
        "models",
        "show a bundle, check it, set its fields, add a variant, pack it",
        "edgekit bundle set yolo11n.bundle license=AGPL-3.0",
    ),
    "bench": (
        "models",
        "measure every variant that runs here; selection uses the result",
        "edgekit bench person-detect.ekb --seconds 5 --report",
    ),
    "verify": (
        "models",
        "check hashes, manifest and golden samples on every variant that runs here",
        "edgekit verify person-detect.ekb",
    ),
    "gallery": (
        "models",
        "give names to what an embedding model sees, in a file on this device",
        "edgekit gallery add faces.ekb known.json Ada ada1.jpg ada2.jpg",
    ),
    "predict": (
        "models",
        "run a model on many files, resumably",
        "edgekit predict person-detect.ekb pictures/*.jpg -o found.jsonl",
    ),
    "run": ("running them", "run a pipeline", "edgekit run door.toml --frames 100"),
    "replay": (
        "running them",
        "play a recording through a pipeline and another one, and say what differs",
        "edgekit replay visits/20261127T081500Z-appeared-person-7c1f.mp4 door.toml --against night.toml",
    ),
    "serve": (
        "running them",
        "answer other processes over HTTP, by the Open Inference Protocol v2",
        "edgekit serve person-detect.ekb --port 8000",
    ),
    "load": (
        "running them",
        "measure a server under load, with a number of clients or at a rate",
        "edgekit load http://127.0.0.1:8000/v2/models/person-detect --clients 8",
    ),
    "top": (
        "running them",
        "show what a server's models are doing",
        "edgekit top http://127.0.0.1:8000",
    ),
    "agent": (
        "running them",
        "enrol this device, run its agent, ask its state",
        "edgekit agent run --config agent.toml",
    ),
}

_MODULES = {"import": "importing"}  # a word of the language


def commands(words: Sequence[str] = ()) -> dict[str, Command]:
    """Return every command by name; entry points are read only if no built-in command is named."""
    table = {
        name: command(f"edgekit.cli.{_MODULES.get(name, name)}", summary, example, group)
        for name, (group, summary, example) in BUILT_IN.items()
    }
    if next((word for word in words if not word.startswith("-")), None) in table:
        return table
    return table | other_commands()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code (see ``run_program``)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = Program(
        "edgekit",
        "Run compressed models on edge devices, unattended.",
        __version__,
        "edgekit doctor",
        commands(words),
    )
    return run_program(program, words)


if __name__ == "__main__":
    sys.exit(main())
