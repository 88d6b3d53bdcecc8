"""The ``edgekit-fleet`` command: a table of commands, each in a module of its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from edgekit.base.command_line import Program, command, run_program
from edgekit_fleet import __version__

# name: (module, what it does, example)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "serve": (
        "edgekit_fleet.cli.serve",
        "run the fleet manager",
        "edgekit-fleet serve --data /var/lib/edgekit-fleet",
    ),
    "backup": (
        "edgekit_fleet.cli.backup",
        "write everything that a fleet keeps into one file, while it runs",
        "edgekit-fleet backup fleet.tar --data ./fleet-data --passphrase-file ./passphrase",
    ),
    "restore": (
        "edgekit_fleet.cli.restore",
        "make a data folder of a backup",
        "edgekit-fleet restore fleet.tar --data ./new-data --passphrase-file ./passphrase",
    ),
    "move": (
        "edgekit_fleet.cli.move",
        "tell every device where the fleet manager is going to be",
        "edgekit-fleet move --to https://new:8080 --to-broker mqtts://new:8883 --data ./fleet-data",
    ),
    "keys": (
        "edgekit_fleet.cli.keys",
        "generate or rotate a publisher's keys",
        "edgekit-fleet keys init --keys ./keys",
    ),
    "publish": (
        "edgekit_fleet.cli.publish",
        "sign a bundle and upload it to the fleet",
        "edgekit-fleet publish person-detect.ekb --keys ./keys --data ./fleet-data",
    ),
    "token": (
        "edgekit_fleet.cli.token",
        "create a token that enrols devices, or an API token",
        "edgekit-fleet token create --enroll --uses 10 --data ./fleet-data",
    ),
    "enroll": (
        "edgekit_fleet.cli.enroll",
        "answer the enrolment request of a device without a link",
        "edgekit-fleet enroll box.request -o box.answer --data ./fleet-data",
    ),
    "export": (
        "edgekit_fleet.cli.export",
        "write a bundle with its signatures, to be carried to a device without a link",
        "edgekit-fleet export person-detect.ekb --device box -o carried.ekb --data ./fleet-data",
    ),
    "import": (
        "edgekit_fleet.cli.importing",
        "take in the outbox of a device without a link",
        "edgekit-fleet import box.outbox -o box.acknowledged --data ./fleet-data",
    ),
    "release": (
        "edgekit_fleet.cli.release",
        "make a release of the agent of wheels, to be published as a model is",
        "edgekit-fleet release edgekit_runtime-0.2.0-py3-none-any.whl -o agent-0.2.0.ekb",
    ),
    "devices": ("edgekit_fleet.cli.devices", "list the devices", "edgekit-fleet devices --data ./fleet-data"),
    "cameras": (
        "edgekit_fleet.cli.cameras",
        "define the cameras of devices, by device or by label, and their passwords",
        "edgekit-fleet cameras set cameras.toml --label entrance --data ./fleet-data",
    ),
    "audit": (
        "edgekit_fleet.cli.audit",
        "export the audit log, or check an exported one",
        "edgekit-fleet audit export -o audit.jsonl --data ./fleet-data",
    ),
    "rollout": (
        "edgekit_fleet.cli.rollout",
        "bring a bundle to devices in waves",
        "edgekit-fleet rollout create --model person-detect --version 3.2.0 --data ./fleet-data",
    ),
    "simulate": (
        "edgekit_fleet.cli.simulate",
        "run thousands of simulated devices against a fleet",
        "edgekit-fleet simulate --devices 100 --seconds 30 --data ./fleet-data",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code (see ``run_program``)."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    program = Program(
        "edgekit-fleet",
        "Enrol devices, watch them, roll models out to them.",
        __version__,
        "edgekit-fleet serve --data ./fleet-data",
        {name: command(*row) for name, row in COMMANDS.items()},
    )
    return run_program(program, arguments)


if __name__ == "__main__":
    sys.exit(main())
