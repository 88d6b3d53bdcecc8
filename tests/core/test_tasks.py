import msgspec
import pytest

from edgekit.core.egress import NAMES
from edgekit.core.errors import BundleError
from edgekit.core.spec import Manifest, TensorSpec, Variant, parse_manifest
from edgekit.core.tasks import TASKS, task_named

TOMORROW = Manifest(
    format=1,
    model="m",
    version="1.0.0",
    task="telepathy",
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(1,)),),
    outputs=(),
    variants=(Variant(id="null", backend="null"),),
)


def test_every_decoder_of_edgekit_serves_a_task_and_every_task_has_one():
    from edgekit.pipeline.decoders import DECODERS

    served = {decoder for row in TASKS.values() for decoder in row.decoders}
    assert served == set(DECODERS)
    assert all(row.decoders for row in TASKS.values())


def test_every_metric_of_a_task_is_a_row_of_the_metrics():
    from edgekit_optimize.metrics.table import METRICS

    named = {metric for row in TASKS.values() for metric in row.metrics}
    assert named <= set(METRICS)
    unlabelled = [name for name, row in TASKS.items() if all(METRICS[m].labelled for m in row.metrics)]
    assert unlabelled == [], "a task that cannot be scored without labels"


def test_every_class_of_data_of_a_task_is_a_row_of_the_egress_table():
    assert {name for row in TASKS.values() for name in row.egress} <= set(NAMES)


def test_a_task_of_tomorrow_is_passed_on_and_refused_only_by_whoever_runs_it():
    assert parse_manifest(msgspec.json.encode(TOMORROW)) == TOMORROW
    with pytest.raises(BundleError, match=r"^m 1\.0\.0: task: want one of .*, got 'telepathy'") as caught:
        task_named(TOMORROW.task, "m 1.0.0")
    assert caught.value.exit_code == 4


def test_a_task_that_is_no_name_is_a_mistake_in_the_manifest():
    data = msgspec.json.encode(msgspec.structs.replace(TOMORROW, task="Tele pathy"))
    with pytest.raises(BundleError) as caught:
        parse_manifest(data)
    assert caught.value.reasons == ("task: want lower-case letters, digits, '.', '_', '-', got 'Tele pathy'",)
