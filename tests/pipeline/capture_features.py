"""Writes ``features.npz``: what librosa, torchaudio and pymicro-features make of ``sound()``.

Run once, with librosa 0.11, torchaudio and pymicro-features installed, which the tests do not need:

    python tests/pipeline/capture_features.py
"""

from pathlib import Path

import numpy as np

RATE_HZ = 16_000
HERE = Path(__file__).with_name("features.npz")


def sound(samples: int = 4800) -> np.ndarray:
    """A rising tone in noise, which grows louder."""
    at = np.arange(samples) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * (300 * at + 4000 * at**2)) * (0.1 + at / at[-1])
    return (tone + np.random.default_rng(5).normal(0, 0.01, samples)).astype(np.float32)


def main() -> None:
    """Write the file."""
    np.savez_compressed(HERE, **of_librosa(), **of_torchaudio(), **of_micro())


def of_librosa() -> dict[str, np.ndarray]:
    import librosa

    given = {"y": sound(), "sr": RATE_HZ, "n_fft": 512, "hop_length": 256, "n_mels": 40}
    mel = librosa.power_to_db(librosa.feature.melspectrogram(**given))
    htk = librosa.feature.melspectrogram(
        **given, htk=True, norm=None, power=1.0, center=False, fmin=60, fmax=7600
    )
    mfcc = librosa.feature.mfcc(**given, n_mfcc=13)
    return {"librosa_mel": mel.T, "librosa_htk": np.log(htk + 1e-6).T, "librosa_mfcc": mfcc.T}


def of_torchaudio() -> dict[str, np.ndarray]:
    import torch
    import torchaudio

    wave = torch.from_numpy(sound())[None]
    mel = torchaudio.transforms.MelSpectrogram(RATE_HZ, n_fft=400, n_mels=32)
    given = {"n_fft": 400, "n_mels": 32}
    mfcc = torchaudio.transforms.MFCC(RATE_HZ, n_mfcc=13, melkwargs=given)
    kaldi = torchaudio.compliance.kaldi
    fbank = kaldi.fbank(wave, num_mel_bins=40, sample_frequency=RATE_HZ, dither=0.0)
    cepstrum = kaldi.mfcc(wave, num_ceps=13, num_mel_bins=23, sample_frequency=RATE_HZ, dither=0.0)
    return {
        "torchaudio_mel": torchaudio.transforms.AmplitudeToDB()(mel(wave))[0].T.numpy(),
        "torchaudio_mfcc": mfcc(wave)[0].T.numpy(),
        "kaldi_fbank": fbank.numpy(),
        "kaldi_mfcc": cepstrum.numpy(),
    }


def of_micro() -> dict[str, np.ndarray]:
    from pymicro_features import MicroFrontend

    frontend = MicroFrontend()
    data = np.rint(sound(16_000) * 32768).astype("<i2").tobytes()
    step = 320  # bytes: 10 ms
    made = [
        frontend.process_samples(data[start : start + step]).features for start in range(0, len(data), step)
    ]
    return {"micro": np.array([row for row in made if row], np.float32)[::4]}


if __name__ == "__main__":
    main()
