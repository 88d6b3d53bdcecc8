"""A configuration that is read again while a version of a pipeline's model is on trial."""

import msgspec
import pytest
from bundles import make_bundle
from test_updates import FAILS, SLOW_FIRST, Device


@pytest.fixture(params=["first", "later"])
def device(request, tmp_path):
    """The model on trial is the pipeline's only one, or that of its second stage."""
    make_bundle(tmp_path / "slow", model="slow", options={"latency_ms": 5})
    device = Device(tmp_path, fps=100, stages=SLOW_FIRST if request.param == "later" else "")
    yield device
    device.close()


def slower(plan):
    return msgspec.structs.replace(plan, text=plan.text.replace("fps = 100", "fps = 80"))


def with_threads(plan):
    """Return the pipeline with its models opened in another way: they are loaded anew."""
    models = tuple(msgspec.structs.replace(use, threads=2) for use in plan.models)
    return msgspec.structs.replace(plan, models=models)


def reload_in_trial(device, change, **bundle):
    """Begin a trial, and change the pipeline once a frame of the new version was seen."""
    device.runs("1.0.0")
    device.want(**bundle)
    device.until(lambda: device.hosted.is_on_trial)
    assert device.updates.reported().state == "TRIAL"
    before = device.pipeline
    device.pool.apply([change(before.plan)])
    device.until(lambda: device.pipeline is not before)


CHANGES = pytest.mark.parametrize("change", [slower, with_threads])


@CHANGES
def test_a_good_version_is_taken_though_its_pipeline_changes_in_the_trial(device, change):
    reload_in_trial(device, change, soak_s=2)
    device.ends("COMMITTED")
    device.runs("2.0.0")
    assert device.active() == "2.0.0"
    assert device.updates.rejected == {}
    assert device.pipeline.state == "running"


@CHANGES
def test_a_bad_version_is_left_though_its_pipeline_changes_in_the_trial(device, change):
    """It fails from its hundredth frame on, which is after the change."""
    bad = {**FAILS, "options": {"fail_at": list(range(100, 5000))}}
    reload_in_trial(device, change, soak_s=60, **bad)
    device.ends("ROLLED_BACK")
    device.runs("1.0.0")
    assert device.active() == "1.0.0"
    assert "error_ratio" in device.updates.rejected["motion@2.0.0"]
