"""What the replicas of a model are, as they are written, and how each is opened."""

import msgspec
import pytest
from bundles import make_bundle
from three_runtimes import X, make_three

from edgekit.core.errors import ConfigError, NoVariantError
from edgekit.core.spec import AcceleratorFact, Variant
from edgekit.model import replicas
from edgekit.model.bundle import open_bundle
from edgekit.model.exclusions import Exclusions
from edgekit.model.joined import offer_of
from edgekit.model.replicas import device_option, pairs_of, replicated
from edgekit.model.servable import HeldServable

TPU = {"backend": "litert", "accelerator": "edgetpu", "files": []}
GPU = {"backend": "openvino", "accelerator": "openvino-gpu", "files": []}


@pytest.fixture
def three(tmp_path):
    return open_bundle(make_three(tmp_path / "relu"))


@pytest.fixture
def mixed(tmp_path):
    """The null backend on the processor, and what this machine has not."""
    folder = make_bundle(tmp_path / "mixed", more_variants=({"id": "spare", "backend": "null"},))
    bundle = open_bundle(folder)
    null = bundle.manifest.variants
    more = tuple(msgspec.convert({"id": name, **row}, Variant) for name, row in (("tpu", TPU), ("igpu", GPU)))
    manifest = msgspec.structs.replace(bundle.manifest, variants=(*null, *more))
    return msgspec.structs.replace(bundle, manifest=manifest)


def opened(bundle, *names, **options):
    tried = []
    offer = replicated(str(bundle.root), 1, Exclusions((0.05, 0.2)), lambda *each: tried.append(each), names)
    return offer.replicas, tried


@pytest.mark.parametrize(
    ("names", "variants"),
    [
        (["litert", "onnxruntime", "openvino"], ["tflite", "ort", "ov"]),
        (["ort", "ov"], ["ort", "ov"]),
        (["ort", "ort"], ["ort", "ort"]),
    ],
)
def test_a_replica_is_named_by_backend_or_variant(three, names, variants):
    pairs, _ = pairs_of(three, names)
    assert [pair.variant.id for pair in pairs] == variants


def test_an_accelerator_is_the_variant_that_selection_ranks_first(three):
    from edgekit.model.choice import choose

    best = choose(three)[0].chosen
    assert [pair.variant for pair in pairs_of(three, ["cpu", "cpu"])[0]] == [best, best]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["cpu"], "want 2 to 16"),
        (["cpu", "gpu"], "has nothing called 'gpu'"),
        (["cpu", "cpu:x"], "has nothing called 'cpu:x'"),
        (["cpu", "cpu:1"], "'cpu' has no numbered devices"),
        (["edgetpu", "edgetpu"], "one model at a time can have 'edgetpu'"),
        (["edgetpu:0", "tpu:0"], "one model at a time can have 'edgetpu'"),
        (["edgetpu:0", "edgetpu"], "one model at a time can have 'edgetpu'"),
    ],
)
def test_names_that_cannot_be_are_refused_with_what_there_is(mixed, names, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        pairs_of(mixed, names)
    if "nothing called" in problem:
        assert "cpu, null, spare, edgetpu, litert, tpu, openvino-gpu, openvino, igpu" in refused.value.hint


def test_numbered_devices_of_an_exclusive_accelerator_are_several(mixed):
    pairs, _ = pairs_of(mixed, ["edgetpu:0", "edgetpu:1", "cpu"])
    assert [(pair.variant.id, pair.device) for pair in pairs] == [("tpu", 0), ("tpu", 1), ("null", None)]


def test_a_stick_that_is_not_there_is_refused_with_those_that_are(mixed, monkeypatch):
    real = replicas.choose
    sticks = tuple(AcceleratorFact(kind="edgetpu", name=f"stick {n}", usable=True) for n in "AB")

    def choose(bundle, **options):
        selection, facts, profile = real(bundle, **options)
        return selection, msgspec.structs.replace(facts, accelerators=sticks), profile

    monkeypatch.setattr(replicas, "choose", choose)
    pairs_of(mixed, ["edgetpu:0", "edgetpu:1"])
    with pytest.raises(ConfigError, match="no edgetpu number 2 here") as refused:
        pairs_of(mixed, ["edgetpu:0", "edgetpu:2"])
    assert refused.value.hint == "there are 2, from 0: stick A, stick B"


@pytest.mark.parametrize(
    ("backend", "accelerator", "number", "option"),
    [
        ("litert", "edgetpu", 1, ":1"),
        ("onnxruntime", "cuda", 1, "1"),
        ("onnxruntime", "openvino-gpu", 1, "GPU.1"),
        ("openvino", "openvino-gpu", 0, "GPU.0"),
        ("openvino", "npu", None, ""),
    ],
)
def test_each_backend_gets_its_own_name_of_a_device(backend, accelerator, number, option):
    assert device_option(Variant(id="v", backend=backend, accelerator=accelerator), number) == option


def test_a_model_with_state_or_an_ensemble_has_none(tmp_path, three):
    state = [{"input": "x", "output": "y"}]
    manifest = msgspec.structs.replace(three.manifest, state=state)
    with pytest.raises(ConfigError, match="keeps state from request to request"):
        pairs_of(msgspec.structs.replace(three, manifest=manifest), ["ort", "ov"])
    with pytest.raises(ConfigError, match="an ensemble cannot have replicas"):
        offer_of(str(tmp_path / "all.toml"), None, Exclusions(), lambda *_: None, ["cpu", "cpu"])


def test_a_file_that_keeps_state_is_refused_when_it_is_open(tmp_path):
    bundle = open_bundle(make_bundle(tmp_path / "m", options={"keeps_state": True}))
    offers, _ = opened(bundle, "cpu", "cpu")
    with pytest.raises(ConfigError, match="keeps state from request to request"):
        offers[0].open()


def test_what_cannot_run_here_says_why_and_what_can(tmp_path):
    folder = make_bundle(
        tmp_path / "m", more_variants=({"id": "tpu", "backend": "null", "accelerator": "edgetpu"},)
    )
    offers, _ = opened(open_bundle(folder), "null", "edgetpu")
    with pytest.raises(NoVariantError, match="tpu: needs accelerator 'edgetpu'") as refused:
        offers[1].open()
    assert refused.value.hint == "here run: cpu (null)"
    assert offers[1].due_s > 0


def test_replicas_with_other_tensors_are_refused(tmp_path):
    many = {
        "inputs": {"x": {"datatype": "FP32", "shape": [4, 16, 2]}},
        "outputs": {"scores": {"datatype": "FP32", "shape": [4, 2]}},
    }
    folder = make_bundle(
        tmp_path / "m",
        more_variants=({"id": "wide", "backend": "null", "options": many},),
        without_golden=True,
    )
    document = msgspec.json.decode((folder / "bundle.json").read_bytes())
    document |= {"task": "raw", "pre": {}, "post": {}}
    del document["labels"]
    document["inputs"][0]["shape"] = [-1, 16, 2]
    document["outputs"][0]["shape"] = [-1, 2]
    (folder / "bundle.json").write_bytes(msgspec.json.encode(document))
    offers, _ = opened(open_bundle(folder), "null", "wide")
    held = offers[0].open()
    with pytest.raises(ConfigError, match="replicas 'null' and 'wide' differ: inputs"):
        offers[1].open()
    held.close()


def test_each_is_opened_as_the_only_one_to_blame_and_then_none_is(three):
    offers, tried = opened(three, "ort", "ort")
    assert [offer.name for offer in offers] == ["ort#1", "ort#2"]
    held = [offer.open() for offer in offers]
    assert tried == [("1-ort:ort", 1), ("", 0), ("2-ort:ort", 1), ("", 0)]
    for each in held:
        assert each.servable.infer({"x": X})["y"].shape == (1, 4)
        each.close()


def test_the_processors_share_the_cores(three, monkeypatch):
    threads = []

    def held(bundle, count, *_, **__):
        threads.append(count)
        return HeldServable(bundle, count, variant="ort")

    monkeypatch.setattr(replicas, "HeldServable", held)
    monkeypatch.setattr(replicas, "default_threads", lambda _: 7)
    offer = replicated(str(three.root), None, Exclusions(), lambda *_: None, ["ort", "ov"])
    for each in offer.replicas:
        each.open().close()
    assert threads == [3, 3]


def test_what_hung_is_due_after_a_wait_that_doubles_and_is_its_own(three):
    whole = Exclusions((5.0, 600.0))
    first, second = replicated(str(three.root), 1, whole, lambda *_: None, ["ort", "ov"]).replicas
    first.lost("it hangs")
    assert whole.reasons() == {"1-ort:ort": "it hangs"}
    assert (first.due_s > 0, second.due_s) == (True, 0.0)
    first.lost("it hangs")
    assert whole.rows["1-ort:ort"].wait_s == 10.0
    with pytest.raises(NoVariantError, match="it hangs"):
        first.open()
    first.forget()
    first.open().close()
