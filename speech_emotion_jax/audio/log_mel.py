"""Compute Whisper's log-mel energies (Radford et al. 2022, section 2.2) in jitted, batched float32 JAX.

Every 10 ms: a Hann window of 25 ms, the power spectrum, 80 or 128 triangles of equal area on Slaney's mel scale, log10,
clipped to 8 below the clip's maximum. The spectrum is a product with a Fourier matrix. float32 suffices, since energies
more than 80 dB below the highest are clipped.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .waveform import SAMPLE_RATE

WINDOW_SECONDS = 30
WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE  # 480,000
FRAME_SAMPLES = 400
HALF = FRAME_SAMPLES // 2
HOP_SAMPLES = 160
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES  # 3,000
HIGHEST_HZ = SAMPLE_RATE / 2
POWER_FLOOR = 1e-10
DYNAMIC_RANGE = 8.0  # decades of power, that is 80 dB


@partial(jax.jit, static_argnames="bins")
def whisper_log_mel(waveforms: Float[Array, "batch samples"], *, bins: int) -> Float[Array, "batch frames bins"]:
    """Compute the log-mel energies that Whisper's encoder takes.

    Args:
        waveforms: Samples at 16 kHz in [-1, 1], a multiple of 160 per row. Whisper takes 480,000 samples (30 s);
            shorter clips are padded with zeros by the caller.
        bins: Mel bins, 80 or 128 (static).

    Returns:
        Energies of shape (batch, samples / 160, bins), float32, about -1.5 to 1.5.
    """
    samples = waveforms.shape[1]
    padded = jnp.pad(waveforms, ((0, 0), (HALF, HALF)), mode="reflect")
    padded = jnp.pad(padded, ((0, 0), (0, HOP_SAMPLES)))
    hops = padded[:, : samples + 3 * HOP_SAMPLES].reshape(len(padded), -1, HOP_SAMPLES)
    rest = FRAME_SAMPLES - 2 * HOP_SAMPLES
    frames = jnp.concatenate([hops[:, :-3], hops[:, 1:-2], hops[:, 2:-1, :rest]], axis=-1)
    # The window and the cosines are symmetric and the sines antisymmetric. Folding the frame halves the products.
    first, last = frames[..., 1:HALF], frames[..., :HALF:-1]
    even = jnp.concatenate([first + last, frames[..., HALF : HALF + 1]], axis=-1)
    cosines, sines = map(jnp.asarray, _fourier_matrices())
    real = jnp.einsum("bfi,io->bfo", even, cosines, precision="highest")
    imaginary = jnp.einsum("bfi,io->bfo", first - last, sines, precision="highest")
    energy = jnp.einsum("bfi,im->bfm", real**2 + imaginary**2, jnp.asarray(mel_filters(bins)), precision="highest")
    decades = jnp.log10(jnp.maximum(energy, POWER_FLOOR))
    decades = jnp.maximum(decades, decades.max(axis=(1, 2), keepdims=True) - DYNAMIC_RANGE)
    return (decades + 4.0) / 4.0


@cache
def _fourier_matrices() -> tuple[Float[np.ndarray, "200 201"], Float[np.ndarray, "199 201"]]:
    """Return the Hann window times the DFT: cosines for samples 1 to 200 and sines for samples 1 to 199.

    Sample 0 is left out because the window is 0 there.
    """
    n = np.arange(1, HALF + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / FRAME_SAMPLES)
    turns = np.outer(n, np.arange(HALF + 1)) % FRAME_SAMPLES / FRAME_SAMPLES
    cosines, sines = window[:, None] * np.cos(2 * np.pi * turns), window[:, None] * np.sin(2 * np.pi * turns)
    return cosines.astype(np.float32), sines[:-1].astype(np.float32)


@cache
def mel_filters(bins: int) -> Float[np.ndarray, "201 bins"]:
    """Return triangular filters of equal area on Slaney's mel scale.

    The scale (Slaney 1998, Auditory Toolbox) is linear below 1 kHz and logarithmic above.

    Args:
        bins: Mel bins.

    Returns:
        The weight of each of the 201 frequencies (0 to 8,000 Hz) in each bin.
    """
    linear_hz, linear_mels, step = 1000.0, 15.0, np.log(6.4) / 27

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(
            mel < linear_mels, mel * linear_hz / linear_mels, linear_hz * np.exp(step * (mel - linear_mels))
        )

    highest = linear_mels + np.log(HIGHEST_HZ / linear_hz) / step
    corners = hertz(np.linspace(0.0, highest, bins + 2))
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    frequencies = np.arange(HALF + 1)[:, None] * SAMPLE_RATE / FRAME_SAMPLES
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (right - left)
    return triangles.astype(np.float32)
