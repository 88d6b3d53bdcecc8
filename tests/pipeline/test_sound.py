"""Features of sound are those of the libraries that models are trained with."""

import numpy as np
import pytest
from capture_features import HERE, RATE_HZ, sound

from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import FrontEnd, Pre, TensorSpec
from edgekit.pipeline.pre import WindowPre
from edgekit.pipeline.sound import Features, from_mel, to_mel

DB = {"log": "db", "top_db": 80.0}
LIBROSA = {
    "frame": 512,
    "step": 256,
    "padding": "zeros",
    "bands": 40,
    "scale": "slaney",
    "is_area": True,
    **DB,
}
TORCH = {"frame": 400, "step": 200, "fft": 400, "padding": "reflect", "bands": 32}
KALDI = {
    "frame": 400,
    "step": 160,
    "taper": "povey",
    "emphasis": 0.97,
    "removes_mean": True,
    "bands": 40,
    "low_hz": 20.0,
    "slopes": "mel",
    "floor": 1.1920928955078125e-07,
}
CASES = {
    "librosa_mel": (LIBROSA, 0.01),
    "librosa_htk": (
        {
            "frame": 512,
            "step": 256,
            "bands": 40,
            "is_magnitude": True,
            "low_hz": 60.0,
            "high_hz": 7600.0,
            "offset": 1e-6,
            "floor": 0.0,
        },
        0.01,
    ),
    "librosa_mfcc": ({**LIBROSA, "kind": "mfcc"}, 0.01),
    "torchaudio_mel": ({**TORCH, "log": "db"}, 0.01),
    "torchaudio_mfcc": ({**TORCH, **DB, "kind": "mfcc"}, 0.01),
    "kaldi_fbank": (KALDI, 0.01),
    "kaldi_mfcc": ({**KALDI, "kind": "mfcc", "bands": 23, "lifter": 22}, 0.01),
}


@pytest.fixture(scope="module")
def captured():
    with np.load(HERE) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_library(name, captured):
    settings, tolerance = CASES[name]
    features = Features(FrontEnd(**settings), RATE_HZ)(sound())
    assert features.shape == captured[name].shape
    np.testing.assert_allclose(features, captured[name], atol=tolerance)


def test_tensorflow_lite_micros_front_end_is_followed_within_its_rounding(captured):
    front_end = FrontEnd(kind="micro", frame=480, step=160, low_hz=125.0, high_hz=7500.0)
    features = Features(front_end, RATE_HZ)(sound(16_000))[::4] / 25.6
    wanted = captured["micro"]
    assert features.shape == wanted.shape
    assert np.abs(features - wanted).mean() < 0.06  # of 26
    assert np.quantile(np.abs(features - wanted), 0.95) < 0.2  # what is nearly nothing is rounded to it


def test_the_first_cepstral_coefficient_of_tensorflow_is_larger_by_the_root_of_two():
    ortho, htk = (
        Features(FrontEnd(kind="mfcc", frame=400, step=160, dct=dct), RATE_HZ)(sound())
        for dct in ("ortho", "htk")
    )
    np.testing.assert_allclose(htk[:, 0], ortho[:, 0] * 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(htk[:, 1:], ortho[:, 1:], rtol=1e-5)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_and_back_is_the_frequency(scale):
    hz = np.linspace(0, 8000, 50)
    np.testing.assert_allclose(from_mel(to_mel(hz, scale), scale), hz, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame": 0}, "frame"),
        ({"fft": 256}, "fft"),
        ({"high_hz": 9000.0}, "high_hz"),
        ({"kind": "mfcc", "coefficients": 41}, "coefficients"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_by_name(changes, said):
    with pytest.raises(BundleError, match=said):
        Features(FrontEnd(**{"frame": 400, "step": 160, **changes}), RATE_HZ)


PRE = Pre(
    resize="none",
    window=4800,
    hop=1600,
    rate_hz=RATE_HZ,
    mean=(-3.0,),
    std=(2.0,),
    front_end=FrontEnd(frame=400, step=160),
)


@pytest.mark.parametrize("shape", [(1, 28, 40, 1), (1, 1, 40, 28), (1, 1120), (1, 40, 28)])
def test_a_window_of_sound_fills_the_models_input_whichever_axis_is_time(shape):
    pre = WindowPre(PRE, TensorSpec(name="x", datatype="FP32", shape=shape), "")
    features = pre.normalize(sound()[:, None])
    view = np.zeros(shape, np.float32)
    pre.fill(features, view)
    wanted = (Features(PRE.front_end, RATE_HZ)(sound()) + 3) / 2
    inner = [length for length in shape if length != 1]
    turned = wanted.T if inner == [40, 28] else wanted
    np.testing.assert_allclose(
        view.reshape(turned.shape if len(inner) == 2 else wanted.shape), turned, rtol=1e-5
    )


def test_an_input_of_another_size_than_the_features_is_refused():
    with pytest.raises(TensorError, match="28 frames of 40"):
        WindowPre(PRE, TensorSpec(name="x", datatype="FP32", shape=(1, 49, 40, 1)), "")
