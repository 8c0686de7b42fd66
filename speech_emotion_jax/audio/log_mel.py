"""Log-mel energies as Whisper takes them (Radford et al. 2022, section 2.2), in jitted, batched float32 JAX.

80 or 128 mel bins every 10 ms of 30 s: Hann window of 25 ms, power spectrum, triangles on Slaney's mel scale with equal
area, log10, cut 8 below the clip's maximum. The spectrum is a product with a Fourier matrix: the lowest energies kept
are 80 dB below the highest, well within what float32 resolves.
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
DYNAMIC_RANGE = 8.0  # decades of power


@partial(jax.jit, static_argnames="bins")
def whisper_log_mel(waveforms: Float[Array, "batch samples"], *, bins: int) -> Float[Array, "batch frames bins"]:
    """Log-mel energies of waveforms at 16 kHz in [-1, 1], a multiple of 160 samples: (batch, samples / 160, bins).

    Whisper takes windows of 480,000 samples, shorter clips padded with zeros. Values are about -1.5 to 1.5.
    """
    samples = waveforms.shape[1]
    padded = jnp.pad(waveforms, ((0, 0), (HALF, HALF)), mode="reflect")
    padded = jnp.pad(padded, ((0, 0), (0, HOP_SAMPLES)))
    hops = padded[:, : samples + 3 * HOP_SAMPLES].reshape(len(padded), -1, HOP_SAMPLES)
    rest = FRAME_SAMPLES - 2 * HOP_SAMPLES
    frames = jnp.concatenate([hops[:, :-3], hops[:, 1:-2], hops[:, 2:-1, :rest]], axis=-1)
    # The window is the same from both ends, a cosine too, a sine but for its sign: half as many products to add up.
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
    """Hann window and DFT: cosines of samples 1 to 200, sines of samples 1 to 199; of sample 0 the window is 0."""
    n = np.arange(1, HALF + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / FRAME_SAMPLES)
    turns = np.outer(n, np.arange(HALF + 1)) % FRAME_SAMPLES / FRAME_SAMPLES
    cosines, sines = window[:, None] * np.cos(2 * np.pi * turns), window[:, None] * np.sin(2 * np.pi * turns)
    return cosines.astype(np.float32), sines[:-1].astype(np.float32)


@cache
def mel_filters(bins: int) -> Float[np.ndarray, "201 bins"]:
    """Triangles on Slaney's mel scale (linear below 1 kHz, logarithmic above), each of the same area."""
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
