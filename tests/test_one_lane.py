"""There is no second queue: a model is called by its lane, or where nobody else has it."""

import ast

import pytest
from house import read_house

INFERENCE = {
    "infer", "infer_many", "predict", "predict_many", "run_golden", "run_together", "run_tensors",
    "run_between", "warm"
}  # fmt: skip
RUNTIMES = {"backend", "tenant", "request", "interpreter", "session"}

ON_THE_LANE = {
    "edgekit.pipeline.loop": "frames of a pipeline, in Lane.stream",
    "edgekit.pipeline.stages.first": "frames and tiles, for the loop",
    "edgekit.pipeline.stages.calls": "the crops of a frame, in Lane.stream",
    "edgekit.serve.work": "requests, in Lane.submit and Lane.run_inline",
    "edgekit.serve.batching": "one model against a batch of it, in Lane.control",
    "edgekit.model.holder": "the golden samples of recheck, in Lane.between",
}
BELOW_IT = {
    "edgekit.backends.onnxruntime": "the runtime's own call",
    "edgekit.backends.openvino": "the runtime's own call",
    "edgekit.pipeline.predictor": "what a pipeline calls: a backend and its pre- and postprocessing",
    "edgekit.model.servable": "what the server calls: the same for tensors and pictures",
    "edgekit.model.joined": "what the server calls: the models of an ensemble, which it alone has",
}
ALONE = {
    "edgekit.backends.probe": "doctor's tiny models, in a child process",
    "edgekit.bench.variant_child": "the measuring child",
    "edgekit.cli.predict": "the command's own model, in its one thread",
    "edgekit.cli.gallery": "the command's own model, in its one thread",
    "edgekit.importer.trial_child": "the try of an imported file, in a child process",
    "edgekit.model.golden": "golden samples before a model is used, in a child process or while it is opened",
    "edgekit.model.synthetic": "the proof of an unknown file, in a child process",
    "edgekit.model.ready": "warming up while it is opened",
    "edgekit.model.api": "edgekit.load: the caller's own model in the caller's thread",
}


def uses(tree):
    """Yield each expression that calls a model, or hands such a call on."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
        is_inference = node.attr in INFERENCE and (
            id(node) in called or node.attr not in ("infer", "predict")
        )
        if is_inference or (node.attr == "run" and owner in RUNTIMES):
            yield ast.unparse(node)


def test_a_model_is_called_by_its_lane_or_where_it_has_no_other_user():
    """On a device: the workstation's models have one user, the process that compresses them."""
    device = {name: module for name, module in read_house().items() if name.startswith("edgekit.")}
    found = {name for name, module in device.items() if any(uses(module.tree))}
    assert found == {*ON_THE_LANE, *BELOW_IT, *ALONE}


@pytest.mark.parametrize(
    "text",
    [
        "predictor.infer(frame)",
        "pool.submit(servable.run_golden, feeds)",
        "self._backend.run()",
        "model.predict(x)",
    ],
)
def test_another_caller_would_be_seen(text):
    assert list(uses(ast.parse(text)))


@pytest.mark.parametrize("text", ["self.infer.add(3)", "loop.run()", "asyncio.run(main())"])
def test_what_only_has_the_name_is_not_taken_for_one(text):
    assert not list(uses(ast.parse(text)))
