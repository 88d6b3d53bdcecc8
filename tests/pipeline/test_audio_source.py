"""Sound is cut into a model's windows at the model's rate, whatever file it comes from."""

import time

import numpy as np
import pytest

from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.resample import Resampler
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.audio import AudioOptions, Cutter

MODEL = SourceContext(window=400, hop=160, channels=1, rate_hz=16_000)


def sine(hz, rate_hz, seconds=0.5, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(
        np.float32
    )


def opened(path, context=MODEL, **options):
    source = make_source("audio", AudioOptions(uri=str(path), **options), context)
    source.open()
    return source


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


@pytest.fixture(scope="module")
def soundfile():
    return pytest.importorskip("soundfile", reason="the extra 'audio' is not installed")


@pytest.mark.parametrize(
    ("kind", "depth"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16")]
)
def test_a_file_becomes_windows_that_overlap(soundfile, tmp_path, kind, depth):
    wave = sine(440, 16_000)
    soundfile.write(tmp_path / f"a.{kind}", wave, 16_000, subtype=depth)
    frames = read_all(opened(tmp_path / f"a.{kind}"))
    assert [frame.seq for frame in frames] == list(range((len(wave) - 400) // 160 + 1))
    for n in (0, 3, len(frames) - 1):
        np.testing.assert_allclose(frames[n].data[:, 0], wave[n * 160 : n * 160 + 400], atol=1e-4)
    assert frames[0].data.shape == (400, 1)
    assert frames[1].meta["media_s"] == pytest.approx(560 / 16_000)


def test_one_channel_or_their_mean_is_taken_at_the_models_rate(soundfile, tmp_path):
    left, right = sine(500, 44_100), sine(500, 44_100, amplitude=0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 44_100)
    for channel, amplitude in ((0, 0.5), (1, 0.1), (-1, 0.3)):
        frames = read_all(opened(tmp_path / "a.wav", channel=channel))
        middle = np.concatenate([frame.data[:160, 0] for frame in frames[5:40]])
        assert np.abs(middle).max() == pytest.approx(amplitude, rel=0.02)
    with pytest.raises(SourceError, match="channel: want at most 1, got 2"):
        read_all(opened(tmp_path / "a.wav", channel=2))


def test_a_file_is_played_at_its_own_pace_and_looped_without_a_window_over_the_seam(soundfile, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(2000, dtype=np.float32) / 4000, 16_000, subtype="FLOAT")
    source = opened(tmp_path / "a.wav", realtime=True, loop=True)
    began_s = time.monotonic()
    frames = [source.read() for _ in range(25)]
    source.close()
    assert time.monotonic() - began_s > 0.2
    assert all((np.diff(frame.data[:, 0]) > 0).all() for frame in frames)


def test_what_is_no_sound_is_refused(soundfile, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(SourceError, match="is no sound"):
        read_all(opened(tmp_path / "a.wav"))
    with pytest.raises(SourceError, match="is no sound.*No such file"):
        read_all(opened(tmp_path / "b.wav"))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(SourceError, match="has no sound"):
        read_all(opened(tmp_path / "empty.wav"))


@pytest.mark.parametrize("rate_hz", [1, 249, 44_101 * 13, 1_000_003, 2**31 - 1])
def test_a_rate_whose_filter_or_samples_would_fill_the_memory_is_refused(soundfile, tmp_path, rate_hz):
    """A header of 44 bytes can state any; 1,000,003 Hz took gigabytes, and 1 Hz makes 16,000 of one."""
    soundfile.write(tmp_path / "a.wav", sine(440, 16_000), 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = rate_hz.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(SourceError, match=f"{rate_hz} Hz cannot be turned into the model's 16000 Hz"):
        read_all(opened(tmp_path / "a.wav"))


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_does_not_reach_the_model(soundfile, tmp_path, rate_hz, value):
    wave = sine(440, rate_hz)
    wave[len(wave) // 2] = value
    soundfile.write(tmp_path / "a.wav", wave, rate_hz, subtype="FLOAT")
    source, seen = opened(tmp_path / "a.wav"), []
    with pytest.raises(SourceError, match=r"a\.wav': a sample is no number"):
        seen += iter(source.read, None)
    assert all(np.isfinite(frame.data).all() for frame in seen)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("loop", [False, True])
def test_a_sound_that_is_shorter_than_a_window_says_so(soundfile, tmp_path, loop):
    soundfile.write(tmp_path / "a.wav", sine(440, 16_000)[:399], 16_000)
    with pytest.raises(SourceError, match="has 399 samples at the model's 16000 Hz, a window is 400"):
        read_all(opened(tmp_path / "a.wav", loop=loop))


def test_a_microphone_that_is_not_there_says_what_to_do():
    with pytest.raises((SourceError, ConfigError)) as caught:
        opened("plughw:99,0")
    assert caught.value.hint


@pytest.mark.parametrize("context", [SourceContext(), SourceContext(window=4, hop=2, channels=3, rate_hz=50)])
def test_a_model_of_pictures_or_of_several_channels_takes_no_sound(context):
    with pytest.raises(ConfigError, match="want a model of windows of one channel"):
        make_source("audio", AudioOptions(uri="a.wav"), context)


# -- resampling and windows


@pytest.mark.parametrize(
    ("before", "after"), [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000), (22_050, 16_000)]
)
def test_a_tone_keeps_its_pitch_and_loudness_at_another_rate_however_the_blocks_are_cut(before, after):
    wave, resampler = sine(1000, before, 1.0)[:, None], Resampler(before, after)
    cuts = np.random.default_rng(0).integers(1, len(wave), 20)
    out = np.concatenate([resampler.push(block) for block in np.split(wave, sorted(cuts))])[:, 0]
    assert abs(len(out) - after) <= 64
    inner = out[after // 4 : after // 4 * 3]
    spectrum = np.abs(np.fft.rfft(inner * np.hanning(len(inner))))
    assert np.argmax(spectrum) * after / len(inner) == pytest.approx(1000, abs=3)
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_what_the_lower_rate_cannot_hold_is_taken_out():
    out = Resampler(48_000, 16_000).push(sine(11_000, 48_000)[:, None])
    assert np.abs(out[200:-200]).max() < 0.5e-3  # 60 dB below


@pytest.mark.parametrize("hop", [2, 4, 7])
def test_windows_are_the_same_however_the_blocks_are_cut_and_none_spans_a_gap(hop):
    wave = np.arange(40, dtype=np.float32)[:, None]
    whole = Cutter(4, hop).push(wave)
    cutter, pieces = Cutter(4, hop), []
    for block in np.split(wave, [1, 2, 9, 10, 25]):
        pieces += cutter.push(block)
    assert [(seq, window.tolist(), end) for seq, window, end in pieces] == [
        (seq, window.tolist(), end) for seq, window, end in whole
    ]
    assert [window[0, 0] for _, window, _ in whole] == list(range(0, 37, hop))
    cutter.push(wave[:3])
    cutter.gap()
    after = cutter.push(wave[20:24])
    assert after[0][1][0, 0] == 20
    assert after[0][0] > whole[-1][0] + 1
