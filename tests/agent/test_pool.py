"""Reloads that follow each other while a pipeline still ends: what the last one says runs in the end."""

import msgspec
import pytest
from test_updates import Device


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    device.until(lambda: device.pipeline.state == "running")
    yield device
    device.close()


def put_back(device, plans, exclusive=None):
    """Apply plans, and at once those of before; return when the pipeline runs again, with its worker."""
    before, pid = [device.pipeline.plan], device.worker.pid
    device.pool.apply(plans, exclusive)
    device.pool.apply(before)
    assert device.pipeline.state == "running", "it has not ended yet"
    device.until(lambda: device.pipeline.state != "running")
    device.until(lambda: device.pipeline.state == "running")
    assert device.pipeline.plan == before[0]
    assert device.worker.pid == pid, "its model is loaded still"


def changed(device):
    plan = device.pipeline.plan
    return [msgspec.structs.replace(plan, text=plan.text.replace("fps = 200", "fps = 100"))]


def test_a_pipeline_that_a_second_reload_puts_back_runs_as_it_was_and_not_as_the_first_said(device):
    put_back(device, changed(device))


def test_a_pipeline_that_a_second_reload_puts_back_after_it_was_taken_out_runs_again(device):
    put_back(device, [])


def test_a_pipeline_that_a_second_reload_puts_back_stays_in_its_process(device):
    """That process has another name than one made now would get, as its first pipelines were others."""
    device.pool.apply([device.pipeline.plan], {"motor": {"npu"}})
    assert list(device.pool.workers) == ["auto:model motion"]
    put_back(device, changed(device))


def test_a_second_reload_may_change_again_what_the_first_one_changed(device):
    first = changed(device)
    second = [msgspec.structs.replace(first[0], text=first[0].text.replace("fps = 100", "fps = 50"))]
    device.pool.apply(first)
    device.pool.apply(second)
    device.until(lambda: device.pipeline.plan == second[0] and device.pipeline.state == "running")
