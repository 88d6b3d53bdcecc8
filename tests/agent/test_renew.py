"""Renewing the certificate, each step of it."""

import pytest

from edgekit.agent.supervisor.renew import renew_certificate
from edgekit.core.errors import ProtocolError
from edgekit.core.wire import Chunk, Response
from edgekit.update.contract import UpdaterResult


class Steps:
    def __init__(self, answer):
        self.requests, self.asked, self._answer = [], [], answer

    def run(self, request):
        self.requests.append(request)
        return UpdaterResult(csr="" if request.certificate else "a signing request")

    def ask(self, arguments):
        self.asked.append(arguments)
        return self._answer


def test_a_key_is_made_the_fleet_certifies_it_and_both_are_put_in_place(tmp_path):
    steps = Steps(Response(1, {"certificate": "a certificate"}))
    renew_certificate(tmp_path, 7, steps.run, steps.ask)
    assert steps.asked == [{"csr": "a signing request"}]
    assert [request.certificate for request in steps.requests] == ["", "a certificate"]
    assert {(request.kind, request.unix_ms) for request in steps.requests} == {("renew", 7)}


@pytest.mark.parametrize("answer", [Response(1, {}), Response(1, {"certificate": 5}), Chunk(1, 0, b"x")])
def test_an_answer_without_a_certificate_changes_nothing(tmp_path, answer):
    steps = Steps(answer)
    with pytest.raises(ProtocolError, match="no certificate"):
        renew_certificate(tmp_path, 7, steps.run, steps.ask)
    assert len(steps.requests) == 1
