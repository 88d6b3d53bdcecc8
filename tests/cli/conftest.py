"""The command in this process, on a machine whose proofs are made already."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from provers import Prover

from edgekit.cli.main import main
from edgekit.model.doctor import facts_with_proofs


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON document on stdout: more or less than one does not decode."""
        return json.loads(self.out)

    @property
    def error(self):
        """The error in the document, which a person is told too."""
        error = self.document["error"]
        assert error["message"] in self.err
        assert error["hint"] in self.err
        assert f"code: {error['code']}" in self.err
        return error


@pytest.fixture
def edgekit(capsys):
    def call(*words):
        code = main([str(word) for word in words])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def proved():
    """Proofs of the runtimes wait in the cache: these tests run the null backend, which needs none."""
    facts_with_proofs(Path("/"), Prover())
