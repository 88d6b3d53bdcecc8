"""One request stays one request, whatever names are in it and whatever comes back."""

import asyncio

import pytest

from edgekit.core.errors import LinkError, UsageError
from edgekit.serve.upstream import Upstream, server_of

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Scripted:
    """Answers each request with the next of some bytes; None ends the connection without an answer."""

    def __init__(self, *answers):
        self.answers, self.requests, self.tasks = list(answers), [], []

    async def __call__(self, reader, writer):
        self.tasks.append(asyncio.current_task())
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            self.requests.append(head.partition(b"\r\n")[0].decode())
            answer = self.answers.pop(0)
            if answer is None:
                break
            writer.write(answer)
        writer.close()


def with_server(answers, talk):
    """Return a scripted server after it was talked to."""
    scripted = Scripted(*answers)

    async def run():
        server = await asyncio.start_server(scripted, "127.0.0.1", 0)
        async with server:
            upstream = Upstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            try:
                await talk(upstream)
            finally:
                await upstream.close()
                await asyncio.gather(*scripted.tasks)

    asyncio.run(run())
    return scripted


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/x HTTP/1.1\r\nhost: h\r\n\r\nPOST /v2/y", ()),
        ("/v2/x\nhost: h", ()),
        ("/v2/a b", ()),
        ("/v2/\u65e5", ()),
        ("/v2/\x00", ()),
        ("/v2", [("x", "a\r\nx-edgekit-remote: 0")]),
        ("/v2", [("x\n", "a")]),
        ("/v2", [("x", "\u65e5")]),
        ("/v2", [("x", "\x7f")]),
    ],
)
def test_nothing_can_be_put_into_a_request(path, headers):
    async def talk(upstream):
        with pytest.raises(UsageError, match="end of line"):
            await upstream.ask("GET", path, headers=headers)
        assert (await upstream.ask("GET", "/v2"))[2] == b"ok"

    assert with_server([OK], talk).requests == ["GET /v2 HTTP/1.1"]


def test_a_post_is_sent_once_though_the_server_ends_instead_of_an_answer():
    """It may have begun, and be why the server ended: a step of a sequence, an input that crashes a model."""

    async def talk(upstream):
        await upstream.ask("POST", "/first")
        with pytest.raises(LinkError):
            await upstream.ask("POST", "/second")
        assert (await upstream.ask("POST", "/third"))[0] == 200
        await upstream.ask("GET", "/fourth")

    told = with_server([OK, None, OK, None, OK], talk)
    assert [line.split()[1] for line in told.requests] == [
        "/first",
        "/second",
        "/third",
        "/fourth",
        "/fourth",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nt: 1\r\n\r\n",
        OK,
    ],
)
def test_bodies_in_chunks_leave_the_connection_whole(answer):
    async def talk(upstream):
        for _ in range(3):
            assert (await upstream.ask("GET", "/v2"))[2] == b"ok"

    assert len(with_server([answer] * 3, talk).tasks) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,
    ],
)
def test_what_is_not_http_is_an_error_of_the_link(answer):
    async def talk(upstream):
        with pytest.raises(LinkError, match="not HTTP"):
            await upstream.ask("GET", "/")

    with_server([answer], talk)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h:1",
        "http://h",
        "http://h:0",
        "http://h:x",
        "http://h:99999",
        "http://[::1",
        "http://a:b@h:1",
    ],
)
def test_only_a_host_and_port_are_a_server(url):
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        server_of(url)
    assert server_of("http://[::1]:80/x") == "http://[::1]:80"
