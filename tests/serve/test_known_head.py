"""A head that came before on its connection is not parsed again, and the answer is the same as if it were."""

import asyncio

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgekit.serve.body import Bodies
from edgekit.serve.fast_path import with_fast_path
from edgekit.serve.ports import Limits
from edgekit.serve.reply import Reply

HEAD = "POST /v2/models/m/infer HTTP/1.1\r\nhost: here\r\n"
LIMITS = Limits()


class Counting(HttpToolsProtocol):
    parsed = 0

    def on_message_begin(self):
        self.parsed += 1
        super().on_message_begin()


Counting.__module__ = HttpToolsProtocol.__module__


class App:
    """Answers each request with its body, and keeps what came."""

    def __init__(self):
        self.bodies, self.came, self.lets_in, self.has_model = Bodies(LIMITS), [], True, True

    def takes(self, url, fields, client):
        return self.lets_in

    def ask(self, url, fields, client, body, on_end):
        if not self.has_model:
            return None
        self.came.append((url, fields, body))
        fields[b"added"] = b"by the application"
        return Reply(body)

    async def __call__(self, scope, receive, send):
        """Stand for the slow path."""
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


class Transport(asyncio.Transport):
    is_closed = False

    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, data):
        self.written.append(data)

    def is_closing(self):
        return self.is_closed

    def close(self):
        self.is_closed = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


@pytest.fixture
def connection():
    """Yield a connection to ``App`` in an event loop that runs only in the end."""
    app, loop = App(), asyncio.new_event_loop()
    config = uvicorn.Config(app, lifespan="off", log_config=None, ws="none")
    config.load()
    kind = with_fast_path(Counting, app, LIMITS)
    asyncio.set_event_loop(loop)
    protocol = kind(config=config, server_state=uvicorn.Server(config).server_state, app_state={}, _loop=loop)
    protocol.connection_made(Transport())
    yield protocol, app
    assert app.bodies.held_bytes == 0
    for task in asyncio.all_tasks(loop):
        loop.run_until_complete(task)
    protocol.connection_lost(None)
    asyncio.set_event_loop(None)
    loop.close()


def request(body, more="", head=HEAD):
    return f"{head}{more}content-length: {len(body)}\r\n\r\n".encode() + body


def bodies(app):
    return [body for _, _, body in app.came]


def test_an_equal_head_is_parsed_once_and_its_fields_are_the_first_ones(connection):
    protocol, app = connection
    for body in (b"one", b"two", b"\r\n\r"):
        protocol.data_received(request(body))
    assert (protocol.parsed, bodies(app)) == (1, [b"one", b"two", b"\r\n\r"])
    assert len({url for url, _, _ in app.came}) == 1
    assert [fields[b"content-length"] for _, fields, _ in app.came] == [b"3"] * 3
    assert len(protocol.transport.written) == 3


def test_the_application_s_changes_of_a_request_are_not_the_next_one_s(connection):
    protocol, app = connection
    seen = []
    ask = app.ask
    app.ask = lambda url, fields, *rest: (seen.append(dict(fields)), ask(url, fields, *rest))[1]
    for _ in range(3):
        protocol.data_received(request(b"body"))
    assert seen[0] == seen[1] == seen[2]
    assert b"added" not in seen[2]


@pytest.mark.parametrize(
    "pieces",
    [
        (request(b"next", "x: y\r\n"),),  # another head
        (request(b"next", head=HEAD.replace("here", "herf")),),  # of the same length
        (request(b"longer"),),
        (request(b"next") + request(b"and another"),),
        (request(b"next")[:-1], request(b"next")[-1:]),
        (request(b"next")[:9], request(b"next")[9:]),
        (b"\r\n" + request(b"next"),),
    ],
)
def test_what_is_not_that_head_and_a_whole_body_is_parsed(connection, pieces):
    protocol, app = connection
    protocol.data_received(request(b"once"))
    for piece in pieces:
        protocol.data_received(piece)
    assert protocol.parsed > 1
    protocol.data_received(request(b"last"))
    assert bodies(app)[0] == b"once"
    assert bodies(app)[-1] == b"last"
    assert b"".join(bodies(app)[1:-1]) in (b"next", b"longer", b"nextand another")


def test_a_body_that_looks_like_the_head_is_a_body(connection):
    protocol, app = connection
    first = request(b"once")
    protocol.data_received(first)
    around = request(first)
    at = len(around) - len(first)
    protocol.data_received(around[:at])
    protocol.data_received(around[at:])  # all of a request, but within another's body
    assert bodies(app) == [b"once", first]


def test_an_empty_line_before_a_request_is_no_head(connection):
    protocol, app = connection
    protocol.data_received(b"\r\n\r\n" + request(b"once"))
    protocol.data_received(b"\r\n\r\nwhat")
    assert bodies(app) == [b"once"]


def test_a_request_to_change_the_protocol_is_parsed_each_time(connection):
    protocol, app = connection
    for _ in range(2):
        protocol.data_received(request(b"body", "connection: upgrade\r\nupgrade: h2c\r\n"))
    assert b"body" not in bodies(app)


def test_who_may_not_ask_any_more_goes_uvicorn_s_way(connection):
    protocol, app = connection
    protocol.data_received(request(b"once"))
    app.lets_in = False
    protocol.data_received(request(b"more"))
    assert (protocol.parsed, bodies(app)) == (2, [b"once"])


def test_a_request_whose_model_has_gone_goes_uvicorn_s_way(connection):
    protocol, app = connection
    protocol.data_received(request(b"once"))
    app.has_model = False
    protocol.data_received(request(b"more"))
    assert (protocol.parsed, bodies(app)) == (2, [b"once"])
