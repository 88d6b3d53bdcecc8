"""Real models and bundles of the null backend through the protocol."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_bundle
from real_pair import planted, write_pair
from scripted import served

import edgekit.backends.tiny
from edgekit.backends.tiny import BIASES, WEIGHTS
from edgekit.core.errors import GoldenError, NoVariantError
from edgekit.model.exclusions import Exclusions
from edgekit.model.servable import HeldServable, offer

TINY = Path(edgekit.backends.tiny.__file__).parent
X = np.arange(16, dtype=np.float32).reshape(1, 16)
Y = np.maximum(X @ np.float32(WEIGHTS) + np.float32(BIASES), 0)


@pytest.fixture(scope="module")
def cache(proved_cache):
    """All tests here share what is verified and measured once."""
    return str(proved_cache())


@pytest.mark.parametrize("file", ["relu.tflite", "relu.onnx", "relu.xml"])
def test_every_runtime_answers_the_same_through_the_protocol(cache, monkeypatch, file):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    with served(offer(str(TINY / file), None)) as server:
        described = server.client.get("/v2/models/relu").json()
        name = described["inputs"][0]["name"]
        assert described["platform"].endswith(f"_{Path(file).suffix[1:]}")
        tensor = {"name": name, "datatype": "FP32", "shape": [1, 16], "data": X.ravel().tolist()}
        got = server.client.post("/v2/models/relu/infer", json={"inputs": [tensor]})
        assert got.json()["outputs"][0]["data"] == Y.ravel().tolist()


def image_bundle(folder):
    """Turn the sensor bundle into an image classifier that always sees the second label."""
    make_bundle(folder, model="look")
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest |= {
        "task": "classify",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "layout": "NCHW"}],
        "pre": {"resize": "stretch", "std": [255.0]},
        "golden": [],
    }
    options = manifest["variants"][0]["options"]
    options["inputs"] = {"image": {"datatype": "FP32", "shape": [1, 3, 8, 8]}}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def test_an_image_model_takes_pictures_and_tensors_whatever_its_variant_wants(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    picture = cv2.imencode(".jpg", np.full((30, 20, 3), 90, np.uint8))[1].tobytes()
    with served(offer(str(image_bundle(tmp_path / "b")), None)) as server:
        post = server.client.post
        answered = post("/v2/models/look/infer", content=picture, headers={"content-type": "image/jpeg"})
        assert answered.json()["items"][0]["label"] == "moving"
        cut = post("/v2/models/look/infer", content=picture[:200], headers={"content-type": "image/jpeg"})
        assert cut.status_code in (200, 400)  # some decoders fill the rest with grey
        image = server.client.get("/v2/models/look").json()["inputs"][0]
        assert image == {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3]}
        raw = post(
            "/v2/models/look/infer", content=bytes(192), headers={"Inference-Header-Content-Length": "0"}
        )
        assert raw.content.endswith(np.float32([0.1, 0.9]).tobytes())


def test_a_lost_variant_returns_to_the_server_and_every_answer_is_right(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    model = offer(str(write_pair(tmp_path / "b")), None, Exclusions((0.05, 1.0)))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": X.ravel().tolist()}

    def ask():
        return server.client.post("/v2/models/relu/infer", json={"inputs": [tensor]})

    def row():
        return server.client.get("/status").json()["models"][0]

    with planted() as faults, served(model) as server:
        faults.is_lost = True
        assert ask().status_code == 503
        while (answered := ask()).status_code == 503:
            assert "pulled out" in answered.json()["error"]
        assert answered.json()["outputs"][0]["data"] == Y.ravel().tolist()
        while row()["returns"] == 0:
            assert ask().json()["outputs"][0]["data"] == Y.ravel().tolist()
        known = row()
        assert (known["variant"], known["failovers"], known["excluded"]) == ("lite", 1, {})
        assert ask().json()["outputs"][0]["data"] == Y.ravel().tolist()
        assert 'edgekit_returns_total{model="relu",version="1.0.0"} 1' in server.client.get("/metrics").text


def test_a_model_whose_only_variant_is_lost_is_not_ready_until_it_returns(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    bundle = make_bundle(tmp_path / "b", options={"lose_at": 6}, without_golden=True)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16, 2], "data": [0] * 32}]}
    with served(offer(str(bundle), None, Exclusions((0.05, 1.0)))) as server:
        answers = [200]
        while server.client.get("/status").json()["models"][0]["returns"] == 0:
            answers.append(server.client.post("/v2/models/motion/infer", json=body).status_code)
        assert set(answers) == {200, 503}
        assert server.client.post("/v2/models/motion/infer", json=body).status_code == 200


def test_a_model_of_raw_tensors_takes_no_picture(cache, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    picture = cv2.imencode(".png", np.zeros((3, 3, 3), np.uint8))[1].tobytes()
    with served(offer(str(TINY / "relu.tflite"), None)) as server:
        answered = server.client.post(
            "/v2/models/relu/infer", content=picture, headers={"content-type": "image/png"}
        )
        assert (answered.status_code, "does not take images" in answered.json()["error"]) == (415, True)


def test_a_bundle_that_fails_its_golden_sample_is_not_served(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    with pytest.raises(GoldenError):
        HeldServable(str(make_bundle(tmp_path / "b", golden=(0.9, 0.1))))


def test_a_model_that_kills_its_process_is_not_served_and_another_variant_is(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_CACHE", cache)
    spare = {"id": "spare", "backend": "null"}
    options = {"crash_at": 3}
    held = HeldServable(str(make_bundle(tmp_path / "b", options=options, more_variants=(spare,))))
    assert held.servable.variant == "spare"
    assert "killed by SIGSEGV" in held.servable.status()["fallbacks"]["null"]
    held.close()
    with pytest.raises(NoVariantError, match="runs on"):
        HeldServable(str(make_bundle(tmp_path / "c", options=options)))
