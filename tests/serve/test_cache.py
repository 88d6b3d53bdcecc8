"""Equal requests are run once while their answer is kept, and never longer than that is right."""

import asyncio
import concurrent.futures
import json
import time

import numpy as np
import pytest
from scripted import X as X_SPEC
from scripted import doubling, served

from edgekit.core.errors import AcceleratorLostError, InferenceError
from edgekit.serve.cache import Cache
from edgekit.serve.metrics import Meter
from edgekit.serve.oip import parse_request
from edgekit.serve.ports import Limits
from edgekit.serve.reply import Done, Reply

X = np.float32([1, 2, 3, 4])
LIMITS = Limits(cache_bytes=1 << 20, inline_s=10.0)


@pytest.fixture
def kept():
    """A server that keeps answers, its model, and threads to ask it from."""
    offer, opener = doubling()
    with served(offer, limits=LIMITS) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        server.pool = pool
        yield server, opener.opened[0]
        opener.opened[0].gate.set()


def is_hit(answered):
    assert answered.status_code == 200
    return answered.headers.get("cache-status") == "edgekit; hit"


def test_an_equal_request_gets_the_kept_answer_with_its_own_id_and_encoding(kept):
    server, model = kept
    first = server.infer(X, id="1")
    assert not is_hit(first)
    again = server.infer(X, id="2", parameters={"priority": 1})
    assert is_hit(again)
    assert again.json() == {**first.json(), "id": "2"}
    binary = server.infer(X, parameters={"binary_data_output": True})
    assert is_hit(binary)
    assert binary.content[-16:] == (2 * X).tobytes()
    assert not is_hit(server.infer(X + 1))
    assert len(model.runs) == 2


def hash_of(*, name="x", datatype="FP32", shape=(2, 4), data=bytes(32), **parameters):
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(data)},
    }
    tensor["parameters"] |= parameters
    head = json.dumps({"inputs": [tensor], "id": str(time.monotonic_ns())}).encode()
    return parse_request(head + data, len(head), [X_SPEC]).content_hash()


@pytest.mark.parametrize(
    "other",
    [{"name": "z"}, {"datatype": "INT32"}, {"shape": (4, 2)}, {"data": bytes(31) + b"\1"}, {"data": b""}],
)
def test_whatever_the_model_would_see_makes_another_key(other):
    assert hash_of() == hash_of()
    assert hash_of(**other) not in (hash_of(), b"")


def test_tensors_in_shared_memory_have_no_key():
    assert hash_of(shared_memory_region="r") == b""


def test_files_are_known_again_too(kept):
    server, _ = kept
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1" + bytes(40)
    hits = []
    for data in (picture, picture, picture + b"\0"):
        answered = server.client.post(
            "/v2/models/double/infer", content=data, headers={"content-type": "image/png"}
        )
        hits.append(is_hit(answered))
    assert hits == [False, True, False]


def test_hits_are_counted_and_are_no_inferences(kept):
    server, _ = kept
    for _ in range(3):
        server.infer(X)
    row = server.client.get("/v2/models/double/stats").json()["model_stats"][0]
    stats = row["inference_stats"]
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"], stats["success"]["count"]) == (2, 1, 3)
    assert (row["inference_count"], row["execution_count"]) == (1, 1)
    assert stats["cache_hit"]["ns"] > 0
    metrics = server.client.get("/metrics").text
    assert 'nv_cache_num_hits_per_model{model="double",version="1.0.0"} 2' in metrics
    assert server.client.get("/status").json()["models"][0]["cache"]["answers"] == 1
    assert server.client.get("/v2/models/double/config").json()["response_cache"] == {"enable": True}


def test_equal_requests_at_the_same_time_are_one_run(kept):
    server, model = kept
    model.gate.clear()
    first = server.pool.submit(server.infer, X)
    assert model.entered.acquire(timeout=60)
    others = [server.pool.submit(server.infer, X) for _ in range(5)]
    late = server.infer(X, parameters={"timeout": 20_000})
    assert (late.status_code, late.json()["error"]) == (504, "the timeout has passed")
    model.gate.set()
    assert not is_hit(first.result(60))
    assert all(is_hit(other.result(60)) for other in others)
    assert len(model.runs) == 1


def test_where_the_first_one_fails_the_others_run(kept):
    server, model = kept
    model.gate.clear()
    model.errors.append(InferenceError("once"))
    first = server.pool.submit(server.infer, X)
    assert model.entered.acquire(timeout=60)
    others = [server.pool.submit(server.infer, X) for _ in range(3)]
    model.gate.set()
    assert first.result(60).status_code == 500
    assert [other.result(60).status_code for other in others] == [200] * 3


def test_another_variant_does_not_answer_with_what_the_last_one_said():
    offer, opener = doubling()
    with served(offer, limits=LIMITS) as server:
        server.infer(X)
        opener.opened[0].errors.append(AcceleratorLostError("unplugged"))
        assert server.infer(X + 1).status_code == 503
        answered = server.infer(X)
        while answered.status_code == 503:
            answered = server.infer(X)
        assert not is_hit(answered)
        assert len(opener.opened[1].runs) == 1


@pytest.mark.parametrize(
    ("limits", "keeps_state"), [(Limits(), False), (LIMITS, True)], ids=["off", "a model with state"]
)
def test_nothing_is_kept_unless_it_is_asked_for_and_right(limits, keeps_state):
    offer, opener = doubling(keeps_state=keeps_state)
    with served(offer, limits=limits) as server:
        assert [is_hit(server.infer(X)) for _ in range(3)] == [False] * 3
        assert len(opener.opened[0].runs) == 3
        assert server.client.get("/status").json()["models"][0]["cache"] is None


class Asked:
    """Work whose answer is its name, 100 bytes to keep."""

    def __init__(self, name):
        self.name, self.size_bytes, self.keeps, self.kept = name, 1, False, None

    def key(self):
        return self.name

    def again(self, kept):
        return Done(Reply(kept), 0, 0, 0)

    def kept_bytes(self):
        return 99

    async def run(self):
        self.kept = self.name
        return Done(Reply(self.name), 0, 0, 0)


async def never():
    await asyncio.get_running_loop().create_future()


def asked(cache, names):
    """Ask one after the other; return what was kept."""

    async def ask():
        return [
            (await cache.answer(work, work.run, work.run, 0.0, never)).is_kept for work in map(Asked, names)
        ]

    return asyncio.run(ask())


def test_answers_are_bounded_in_bytes_and_the_least_recently_used_goes_first():
    cache = Cache(300, 60.0, Meter())
    assert asked(cache, [b"a", b"b", b"c", b"a", b"d", b"a", b"b"]) == [False] * 3 + [
        True,
        False,
        True,
        False,
    ]
    assert (cache.held_bytes, len(cache)) == (300, 3)
    assert asked(Cache(99, 60.0, Meter()), [b"a", b"a"]) == [False, False]


def test_an_answer_is_kept_for_so_long_and_no_longer():
    now_s = [0.0]
    cache = Cache(300, 60.0, Meter(), clock=lambda: now_s[0])
    assert asked(cache, [b"a", b"a"]) == [False, True]
    now_s[0] = 59.9
    assert asked(cache, [b"a"]) == [True]
    now_s[0] = 60.0
    assert asked(cache, [b"a"]) == [False]


def status_of(done):
    return dict(done.reply.headers).get(b"cache-status", b"").decode()


def test_a_stale_answer_is_given_at_once_marked_and_made_anew_once_for_all():
    now_s, meter, runs = [0.0], Meter(), []
    cache = Cache(300, 60.0, meter, 30.0, clock=lambda: now_s[0])

    async def ask():
        done, again = asyncio.Event(), asyncio.Event()

        async def refresh(work):
            runs.append(now_s[0])
            again.set()
            await done.wait()
            return await work.run()

        async def answer():
            work = Asked(b"a")
            return status_of(await cache.answer(work, work.run, lambda: refresh(work), 0.0, never))

        assert await answer() == ""
        now_s[0] = 75.5
        assert [await answer() for _ in range(3)] == ["edgekit; hit; ttl=-16"] * 3
        await again.wait()
        assert runs == [75.5]
        done.set()
        await asyncio.gather(*cache._refreshes)
        assert await answer() == "edgekit; hit"
        assert (cache.held_bytes, len(cache)) == (100, 1)
        now_s[0] = 75.5 + 90.0  # too stale to be given
        assert await answer() == ""

    asyncio.run(ask())
    assert (meter.stale_hits, meter.misses) == (3, 2)


def test_where_making_it_anew_fails_the_stale_answer_lasts_to_its_bound_and_the_failure_counts():
    now_s, meter = [0.0], Meter()
    cache = Cache(300, 60.0, meter, 30.0, clock=lambda: now_s[0])

    async def fail():
        raise InferenceError("not now")

    async def ask(at_s):
        now_s[0] = at_s
        work = Asked(b"a")
        done = await cache.answer(work, work.run, fail, 0.0, never)
        await asyncio.gather(*cache._refreshes)
        return done.is_kept

    async def asked_at(times):
        return [await ask(at_s) for at_s in times]

    assert asyncio.run(asked_at([0, 61, 89.9, 90])) == [False, True, True, False]
    assert meter.failed_refreshes == 2


def test_more_stale_answers_than_four_are_not_made_anew_at_once():
    now_s, running = [0.0], []
    cache = Cache(3000, 60.0, Meter(), 30.0, clock=lambda: now_s[0])

    async def ask():
        end = asyncio.Event()

        async def refresh(work):
            running.append(work.name)
            await end.wait()
            return await work.run()

        works = [Asked(b"%d" % number) for number in range(9)]
        for at_s in (0, 61):
            now_s[0] = at_s
            for work in works:
                await cache.answer(work, work.run, lambda work=work: refresh(work), 0.0, never)
        await asyncio.sleep(0)
        assert len(running) == 4
        end.set()
        await asyncio.gather(*cache._refreshes)

    asyncio.run(ask())


def test_a_server_gives_a_stale_answer_and_the_inference_after_it_counts():
    offer, opener = doubling()
    limits = Limits(cache_bytes=1 << 20, cache_s=0.001, cache_stale_s=600.0, inline_s=10.0)
    with served(offer, limits=limits) as server:
        assert not is_hit(server.infer(X))
        model = opener.opened[0]
        model.entered.acquire(blocking=False)
        deadline_s = time.monotonic() + 60
        while not (answered := server.infer(X)).headers["cache-status"].startswith("edgekit; hit; ttl=-"):
            assert is_hit(answered)  # it came back within the millisecond that an answer is fresh
            assert time.monotonic() < deadline_s
        assert answered.json()["outputs"][0]["data"] == (2 * X).tolist()
        assert model.entered.acquire(timeout=60)
        deadline_s = time.monotonic() + 60
        while server.client.get("/v2/models/double/stats").json()["model_stats"][0]["inference_count"] < 2:
            assert time.monotonic() < deadline_s
        assert "edgekit_cache_stale_total" in server.client.get("/metrics").text
