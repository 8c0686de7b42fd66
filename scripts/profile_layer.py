"""Where the time of a conformer layer goes on a CPU, ours beside PyTorch's: what its linear maps take, and the rest.

    python scripts/profile_layer.py [--frames 256 512 1536] [--precision float32] [--turns 9]

Layers of the published size with RANDOM weights on one clip without padding; medians, each side in a process of its
own. "layer" is a quarter of what four take, PyTorch's with what comes before them. "linear maps" are the layer's matrix
products alone, one after the other; "attention" is what lies between its maps to queries, keys and values and the one
behind it. Were ours nothing but linear maps, it would be as many times faster than PyTorch's layer as the last line
says: with these products there is no more to gain. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from speech_emotion_jax.benchmarking.torch_side import autocast, hold_matrices, pytorch
from speech_emotion_jax.config import EmotionConfig, Wav2Vec2BertConfig
from speech_emotion_jax.inference.encoder_programs import LAYERS
from speech_emotion_jax.models.attention import attend
from speech_emotion_jax.models.layers import contract
from speech_emotion_jax.models.wav2vec2_bert import ConformerLayer
from speech_emotion_jax.runtime.console import aligned
from speech_emotion_jax.runtime.precision import parameter_dtype

Timed = Callable[[], object]
WARMING = 3  # turns that don't count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[256, 512, 1536])
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    config = EmotionConfig.published("es", "audio").audio
    assert config is not None
    print(f"{config.hidden_size} wide, {options.precision}, {os.cpu_count()} cores, RANDOM weights")
    for frames in options.frames:
        seconds = {}
        for side in (ours, theirs):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                seconds |= process.submit(measured, side, config, frames, options.precision, options.turns).result()
        flops = 2.0 * frames * sum(inputs * outputs for inputs, outputs in linear_maps(config))
        rows = [[f"{frames} frames", "time", "GFLOP/s"]]
        for name, each in seconds.items():
            rate = f"{flops / each / 1e9:,.0f}" if name.endswith("linear maps") else ""
            rows.append([f"  {name}", f"{1000 * each:.1f} ms", rate])
        print("", *aligned(rows), sep="\n")
        layer, least = (seconds["PyTorch, layer"] / seconds[f"ours, {part}"] for part in ("layer", "linear maps"))
        print(f"  PyTorch's layer / ours: {layer:.2f}; were ours its linear maps alone: {least:.2f}", flush=True)


def linear_maps(config: Wav2Vec2BertConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's matrix products, but for those within its attention."""
    width, inner = config.hidden_size, config.intermediate_size
    return [*[(width, inner), (inner, width)] * 2, *[(width, width)] * 4, (width, 2 * width), (width, width)]


def measured(
    side: Callable[[Wav2Vec2BertConfig, int, str], dict[str, Timed]],
    config: Wav2Vec2BertConfig,
    frames: int,
    precision: str,
    turns: int,
) -> dict[str, float]:
    """The median of the seconds that each part of a side takes, being warm."""
    return {
        name: seconds_of(run, turns) / (LAYERS if name.endswith("layer") else 1)
        for name, run in side(config, frames, precision).items()
    }


def seconds_of(run: Timed, turns: int) -> float:
    taken = []
    for _ in range(WARMING + turns):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return median(taken[WARMING:])


def ours(config: Wav2Vec2BertConfig, frames: int, precision: str) -> dict[str, Timed]:
    dtype = jnp.dtype(precision)
    graph, parameters = nnx.split(nnx.List([ConformerLayer(config, rngs=nnx.Rngs(seed)) for seed in range(LAYERS)]))
    parameters = nnx.from_flat_state(
        (path, leaf.replace(leaf[...].astype(parameter_dtype(f"audio_encoder.{'.'.join(map(str, path))}", precision))))
        for path, leaf in nnx.to_flat_state(parameters)
    )
    x, mask = random(1, frames, config.hidden_size), jnp.ones((1, frames), bool)
    maps = [(random(frames, inputs), random(inputs, outputs, dtype=dtype)) for inputs, outputs in linear_maps(config)]
    heads = (1, frames, config.num_attention_heads, config.hidden_size // config.num_attention_heads)
    queries, distances = random(*heads), random(config.positions, heads[-1], dtype=dtype)

    def layers(parameters: Any, x: jax.Array) -> jax.Array:
        for layer in nnx.merge(graph, parameters):
            x = layer(x, mask)
        return x

    layers = jax.jit(layers)
    product = jax.jit(lambda x, kernel: contract("ni,io->no", x, kernel))
    attention = jax.jit(
        lambda x: attend(x, x, x, mask, dtype=dtype, distances=distances, left=config.left_max_position_embeddings)
    )
    return {
        "ours, layer": lambda: layers(parameters, x).block_until_ready(),
        "ours, linear maps": lambda: [product(*each) for each in maps][-1].block_until_ready(),
        "ours, attention": lambda: attention(queries).block_until_ready(),
    }


def theirs(config: Wav2Vec2BertConfig, frames: int, precision: str) -> dict[str, Timed]:
    torch = pytorch()
    from transformers import Wav2Vec2BertConfig as TheirConfig
    from transformers import Wav2Vec2BertModel

    model: Any = Wav2Vec2BertModel(TheirConfig(num_hidden_layers=LAYERS)).eval()  # else of the published size
    hold_matrices(torch, model, precision)
    x, dtype = torch.randn(1, frames, config.feature_projection_input_dim), getattr(torch, precision)
    maps = [
        (torch.randn(frames, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype))
        for inputs, outputs in linear_maps(config)
    ]

    def whole() -> object:
        with torch.inference_mode(), autocast(torch, precision):
            return model(x)

    def products() -> object:
        with torch.inference_mode():
            return [torch.nn.functional.linear(*each) for each in maps]

    return {"PyTorch, layer": whole, "PyTorch, linear maps": products}


def random(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape).astype(dtype)


if __name__ == "__main__":
    main()
