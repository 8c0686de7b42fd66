"""Compile the full-size training step for a TPU slice without having one, and say whether it fits.

    pip install "jax[tpu]"
    python scripts/compile_training_for_tpu.py [--topology v5e:2x4] [--clips 8] [--seconds 10]

The published Spanish concat model, the text encoder frozen, so many clips of that length a chip; parameters, gradients
and AdamW's state in float32 divided over all chips (FSDP), bfloat16 products, each layer computed anew on the way back.
Nothing is computed and no weight is made: XLA's compiler is given shapes. Printed are the memory of one chip by what it
is for, the collectives, and the largest array that one of them gives: it should be a matrix of one layer, never the
stack of all. (Most matrices are not gathered at all: XLA hands their parts round the chips by collective-permute while
it multiplies, and sums the gradients the same way.) Exits with 1 where the step does not fit in 16 GB a chip.

Printed for v5e:2x4: 5.2 GB a chip at most, of which 1.0 GB are arguments and 4.1 GB temporaries; 205
collective-permutes, 27 all-gathers, 6 all-reduces; the largest array is a matrix of the head, 9.4 MB.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import time
from collections import Counter
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.inputs.audio import SAMPLE_RATE
from speech_emotion_jax.inputs.batches import FRAME_BUCKETS, bucket
from speech_emotion_jax.inputs.features import FEATURES, feature_frames
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.runtime.sharding import BATCH, parameter_shardings
from speech_emotion_jax.training.optimizer import frozen_layers, make_optimizer, trainable
from speech_emotion_jax.training.recipe import Optimizer
from speech_emotion_jax.training.step import Method, compiled_step

CHIP = 16e9  # bytes
TOKENS = 64  # of each text
COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--clips", type=int, default=8, help="a chip")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip")
    options = parser.parse_args()

    topology = topologies.get_topology_desc(platform="tpu", topology_name=options.topology)
    mesh = Mesh(np.array(topology.devices).reshape(1, -1), BATCH)
    frames = bucket(feature_frames(round(options.seconds * SAMPLE_RATE)), FRAME_BUCKETS)
    program, inputs = training_step(mesh, options.clips * mesh.size, frames)
    print(f"{options.topology}: {mesh.size} chips, {options.clips} clips of {frames} frames and {TOKENS} tokens a chip")
    begun = time.perf_counter()
    compiled = program.lower(*inputs).compile()
    print(f"compiled in {time.perf_counter() - begun:.0f} s")
    describe(compiled.as_text())
    memory = compiled.memory_analysis()
    parts = {
        "arguments": memory.argument_size_in_bytes,
        "results that reuse no argument": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    total = sum(parts.values())
    for name, size in parts.items():
        print(f"{name:34}{size / 1e9:8.3f} GB")
    print(f"{'all of these, at most':34}{total / 1e9:8.3f} GB a chip")
    print(f"{'of which reused (donated)':34}{memory.alias_size_in_bytes / 1e9:8.3f} GB")
    print(f"{'peak, by the compiler':34}{memory.peak_memory_in_bytes / 1e9:8.3f} GB")
    if total > CHIP:
        sys.exit("it does not fit in 16 GB a chip")


def training_step(mesh: Mesh, clips: int, frames: int) -> tuple[Any, tuple[Any, ...]]:
    """The jitted step, and the shapes and places of its inputs."""
    config = EmotionConfig.published("es", "concat")
    shapes = parameter_shapes(config)
    settings = Optimizer(freeze=("text_encoder",))
    places = parameter_shardings(shapes, mesh)
    learns = trainable(shapes, settings.freeze)
    parameters = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=places[path]) for path, shape in shapes.items()
    }
    learning: Any = {path: leaf for path, leaf in parameters.items() if path in learns}
    frozen = {path: leaf for path, leaf in parameters.items() if path not in learns}
    method = Method(
        config,
        make_optimizer(settings, shapes, 10_000),
        jnp.ones(len(config.labels)),
        precision="bfloat16",
        remat=True,
        frozen_layers={kind: frozen_layers(shapes, settings.freeze, f"{kind}_encoder") for kind in ("audio", "text")},
    )
    shardings = method.shardings(learning, mesh)
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(method.begin, learning),
        shardings,
    )
    divided = NamedSharding(mesh, PartitionSpec(None, BATCH))
    batch = {
        name: jax.ShapeDtypeStruct((1, clips, *rest), dtype, sharding=divided)
        for name, rest, dtype in (
            ("features", (frames, FEATURES), jnp.float32),
            ("frame_mask", (frames,), jnp.bool_),
            ("ids", (TOKENS,), jnp.int32),
            ("token_mask", (TOKENS,), jnp.bool_),
            ("labels", (), jnp.int32),
            ("valid", (), jnp.bool_),
        )
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    return compiled_step(method, shardings, mesh), (state, frozen, batch, key)


def describe(program: str) -> None:
    """Print the collectives of a compiled program, and the largest array that one gives."""
    counts: Counter[str] = Counter()
    given: list[tuple[str, str]] = []
    for line in program.splitlines():
        # An asynchronous one is a pair, -start and -done; it is counted once.
        if found := re.match(rf"\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line):
            counts[found[2]] += 1
            given += re.findall(r"(\w+)\[([\d,]*)\]", found[1])
    print("collectives: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    sizes = [
        (BYTES[dtype] * math.prod(int(axis) for axis in shape.split(",") if axis), dtype, shape)
        for dtype, shape in given
    ]
    size, dtype, shape = max(sizes)
    print(f"largest array of these: {dtype}[{shape}], {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
