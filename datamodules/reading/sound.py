"""Sound in WAV files, and the logarithm of its power in mel bands."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from datamodules.reading.arrays import Floats
from datamodules.reading.image_files import UnreadableError
from distill.errors import UserError

SAMPLE_RATE = 16000  # Hz; speech has hardly any power above 8 kHz
WINDOW_LENGTH = 400  # samples, 25 ms
HOP_LENGTH = 160  # samples, 10 ms
N_FFT = 512
DECIBEL_FLOOR = -80.0

HEADROOM = 4.0
"""How far floats may exceed full scale, 12 dB; integers that were stored as floats exceed it by far."""

# SciPy reports damage by all of these
DAMAGE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, NameError, ArithmeticError),
    *(struct.error, wavfile.WavFileWarning),
)


def read_wav(path: Path) -> Floats:
    """Reads a WAV file as one channel at :data:`SAMPLE_RATE`, ``(L,)``; 1 is full scale.

    Several channels are averaged. Floats that exceed full scale by up to :data:`HEADROOM`, as a mix does, are divided
    by their peak.

    Raises:
        ValueError: The file is damaged or empty, or holds floats on another scale.
    """
    try:
        with warnings.catch_warnings():
            # a warning that the file ends early becomes an error; further chunks in the file do no harm
            warnings.simplefilter("error", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk \\(non-data\\)", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except DAMAGE as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
    if not samples.size:
        raise UnreadableError(f"{path} holds no sound")
    scaled = _scaled(samples, path)
    mono = scaled.mean(axis=1) if scaled.ndim == 2 else scaled
    common = math.gcd(rate, SAMPLE_RATE)
    return np.asarray(resample_poly(mono, SAMPLE_RATE // common, rate // common), np.float32)


def middle(sound: Floats, length: int) -> Floats:
    """The ``length`` samples in the middle; a shorter sound gets silence on both sides."""
    missing = max(0, length - len(sound))
    padded = np.pad(sound, (missing // 2, missing - missing // 2))
    start = (len(padded) - length) // 2
    return padded[start : start + length]


def mel_filterbank(bands: int, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT) -> Floats:
    """Triangles over frequency, of height 1; each spans the range between the peaks of its neighbours.

    The peaks are evenly spaced in mel, ``2595 log10(1 + f / 700)``, between 0 Hz and half the sample rate.

    Args:
        bands: M, the number of triangles.
        sample_rate: In Hz.
        n_fft: The length of the Fourier transform in samples.

    Returns:
        ``(M, n_fft // 2 + 1)``.

    Raises:
        ValueError: A band is so narrow that it holds no frequency of the transform.

    Source: the scale of O'Shaughnessy, "Speech communication", 1987, as in HTK.
    """
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    left, peak, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    filters = np.minimum((frequencies - left) / (peak - left), (right - frequencies) / (right - peak)).clip(0)
    if not filters.any(axis=1).all():
        raise UserError(f"{bands} mel bands are too many for a Fourier transform of {n_fft} samples: one is empty")
    return filters.astype(np.float32)


def log_mel(sound: Floats, filters: Floats) -> Floats:
    """Power in mel bands every 10 ms: 1 is 0 dB, about the power of a sine of full scale; -1 is -80 dB or less.

    Args:
        sound: At :data:`SAMPLE_RATE`, from -1 to 1, ``(L,)``.
        filters: From :func:`mel_filterbank`, ``(M, N_FFT // 2 + 1)``.

    Returns:
        ``(M, L // HOP_LENGTH)``.
    """
    window = torch.hann_window(WINDOW_LENGTH)
    spectrum = torch.stft(
        torch.from_numpy(sound), N_FFT, HOP_LENGTH, WINDOW_LENGTH, window, pad_mode="constant", return_complex=True
    )
    # a sine of amplitude 1 has an amplitude of half the window's sum in its bin
    amplitude = spectrum[:, : len(sound) // HOP_LENGTH].abs() / (window.sum() / 2)
    power = torch.from_numpy(filters) @ amplitude.square()
    decibels = 10 * power.clamp(min=10 ** (DECIBEL_FLOOR / 10)).log10()
    return (1 - 2 * decibels / DECIBEL_FLOOR).clamp(max=1).numpy()


def _scaled(samples: NDArray[Any], path: Path) -> NDArray[np.float64]:
    """Samples of any type of a WAV file, scaled to -1 to 1; 128 is the zero of bytes."""
    values = samples.astype(np.float64)
    if samples.dtype == np.uint8:
        return values / 128 - 1
    if samples.dtype.kind == "i":
        return values / -float(np.iinfo(samples.dtype).min)  # SciPy shifts 24 bits to the upper ones of 32
    peak = float(np.abs(values).max())
    if not math.isfinite(peak):
        raise UnreadableError(f"{path} holds a sample that is not finite")
    if peak > HEADROOM:
        raise UserError(f"{path} holds floats up to {peak:g}, but floats should lie from -1 to 1: rescale them")
    return values / max(peak, 1.0)
