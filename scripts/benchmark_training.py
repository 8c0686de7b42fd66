"""Time and memory of a step of training, side by side: ours and an equivalent loop in torch.

    python scripts/benchmark_training.py [--pairs 7] [--steps 3]

Mode audio from random weights, batches of 4 clips of 3 to 5 s as features that were computed before: Wav2Vec2-BERT with
2 layers of width 256, and with 4 of width 512. Both sides compute in float32, with dropout and SpecAugment as the
config has them, no LayerDrop, the gradient's norm clipped, AdamW, all parameters learning. Torch's side is
transformers' Wav2Vec2BertModel in training mode with the attention that it chooses, the head by its formulas, and the
fused AdamW; it pads to the longest clip, ours to a bucket. Ours is run without and with computing each layer anew on
the way back (remat), which a recipe has by default.

Each side is a process of its own, and has taken the first steps (ours has compiled; that time is printed apart). Then
the sides take turns of some steps. Printed are medians, the median of the pairs' ratios (above 1: ours is faster), each
process's peak memory and what of it there was before the model, the losses of the first and the last step, and what
torch's matmul gives between the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

SIZES = ((2, 256), (4, 512))  # layers, width
BATCHES, CLIPS, LABELS = 4, 4, 6
SECONDS = (3.0, 5.0)
RATE, DECAY, NORM = 1e-4, 0.01, 1.0
THREADS = os.cpu_count() or 1
SIDES = ("torch", "ours", "ours, remat")

Step = Callable[[int], Any]  # takes the step's number; what it gives becomes a float once the step is done


def main() -> None:
    """Parent: start the sides, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7, help="turns of each side")
    parser.add_argument("--steps", type=int, default=3, help="of each turn")
    options = parser.parse_args()
    rates = []
    print(f"{'':28}{'step':>9}{'ratio':>7}{'first steps':>13}{'peak':>10}{'at rest':>10}{'loss':>16}")
    for layers, width in SIZES:
        workers = {name: Side(name, layers, width) for name in SIDES}
        times: dict[str, list[float]] = {name: [] for name in SIDES}
        last = {}
        for _ in range(options.pairs):
            for name, worker in workers.items():
                done = worker.ask(options.steps)
                times[name].append(done["seconds"] / options.steps)
                last[name] = done["loss"]
            rates.append(workers["torch"].ask(0)["rate"])
        for name, worker in workers.items():
            ratio = median(torch / own for torch, own in zip(times["torch"], times[name], strict=True))
            begun = worker.begun
            print(
                f"{f'{layers} x {width}, {name}':28}{1000 * median(times[name]):>6.0f} ms{ratio:>7.2f}"
                f"{begun['seconds']:>11.1f} s{worker.close():>7.2f} GB{begun['rest']:>7.2f} GB"
                f"{begun['loss']:>8.3f}{last[name]:>8.3f}"
            )
    print(f"{options.pairs} turns of {options.steps} steps of each, {THREADS} threads")
    print(f"torch's matmul between: median {median(rates):.0f}, {min(rates):.0f} to {max(rates):.0f} GFLOP/s")


class Side:
    """One process that takes as many steps as it is told to."""

    def __init__(self, name: str, layers: int, width: int):
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--side", name, str(layers), str(width)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE", "JAX_PLATFORMS": "cpu"},
        )
        self.begun = self._answer()

    def ask(self, steps: int) -> dict[str, float]:
        assert self._process.stdin is not None
        print(steps, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> float:
        """End the process; its peak memory in GB."""
        peak = self.ask(0)["peak"]
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return peak

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the side {self._name} ended; what it printed says why")
        return json.loads(line)


def side(name: str, layers: int, width: int) -> None:
    """Worker: answers a number of steps with seconds and the last loss, 0 with memory and torch's matmul rate."""
    make = torch_side if name == "torch" else our_side
    rest, step = make(layers, width, remat=name.endswith("remat"))
    begun = time.perf_counter()
    losses = [float(step(number)) for number in range(2)]
    print(json.dumps({"seconds": time.perf_counter() - begun, "rest": rest, "loss": losses[0]}), flush=True)
    taken = len(losses)
    for line in sys.stdin:
        if not (steps := int(line)):
            rate = matmul_rate() if name == "torch" else None
            print(json.dumps({"peak": peak_memory(), "rate": rate}), flush=True)
            continue
        begun = time.perf_counter()
        losses = [step(number) for number in range(taken, taken + steps)]
        loss = float(losses[-1])
        print(json.dumps({"seconds": time.perf_counter() - begun, "loss": loss}), flush=True)
        taken += steps


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def matmul_rate() -> float:
    import torch

    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    begun = time.perf_counter()
    for _ in range(10):
        torch.mm(a, b)
    return 10 * 2 * 1024**3 / (time.perf_counter() - begun) / 1e9


def batches() -> list[dict[str, np.ndarray]]:
    """The same on both sides: random features that lean towards their label, padded to the longest clip."""
    rng = np.random.default_rng(0)
    leaning = rng.standard_normal((LABELS, 160))
    found = []
    for _ in range(BATCHES):
        labels = rng.integers(LABELS, size=CLIPS)
        lengths = rng.integers(int(50 * SECONDS[0]), int(50 * SECONDS[1]), size=CLIPS)
        lengths[0] = 50 * SECONDS[1]
        mask = np.arange(lengths.max())[None] < lengths[:, None]
        features = rng.standard_normal((*mask.shape, 160)) + 0.5 * leaning[labels][:, None]
        found.append(
            {"features": (features * mask[..., None]).astype(np.float32), "frame_mask": mask, "labels": labels}
        )
    return found


def torch_side(layers: int, width: int, *, remat: bool) -> tuple[float, Step]:
    import torch
    from torch import nn
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    rest = peak_memory()
    config = Wav2Vec2BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        output_hidden_size=width,
        layerdrop=0.0,
        conformer_conv_dropout=0.1,
        final_dropout=0.1,
        apply_spec_augment=True,
    )

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Wav2Vec2BertModel(config)
            self.projector = nn.Linear(width, width)
            self.drop = nn.Dropout(config.final_dropout)
            self.dense = nn.Linear(width, width)
            self.out_proj = nn.Linear(width, LABELS)

        def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(features, attention_mask=mask).last_hidden_state
            kept = mask[..., None]
            pooled = (self.projector(states) * kept).sum(dim=1) / kept.sum(dim=1)
            return self.out_proj(self.drop(torch.tanh(self.dense(self.drop(pooled)))))

    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    data = [
        (torch.tensor(each["features"]), torch.tensor(each["frame_mask"]).long(), torch.tensor(each["labels"]))
        for each in batches()
    ]

    def step(number: int) -> torch.Tensor:
        features, mask, labels = data[number % BATCHES]
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(features, mask), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), NORM)
        optimizer.step()
        return loss.detach()

    return rest, step


def our_side(layers: int, width: int, *, remat: bool) -> tuple[float, Step]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from speech_emotion_jax.config import EmotionConfig, Wav2Vec2BertConfig
    from speech_emotion_jax.inputs.batches import FRAME_BUCKETS, bucket
    from speech_emotion_jax.models.emotion import EmotionModel
    from speech_emotion_jax.models.parameters import parameters_of
    from speech_emotion_jax.runtime.sharding import training_mesh
    from speech_emotion_jax.training.optimizer import make_optimizer
    from speech_emotion_jax.training.recipe import Optimizer
    from speech_emotion_jax.training.step import Method, compiled_step

    rest = peak_memory()
    audio = Wav2Vec2BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        output_hidden_size=width,
        layerdrop=0.0,
    )
    config = EmotionConfig.of("audio", tuple(map(str, range(LABELS))), audio, None, width)
    parameters = parameters_of(EmotionModel(config, rngs=nnx.Rngs(0)))
    settings = Optimizer(learning_rate=RATE, weight_decay=DECAY, clip_norm=NORM, warmup=0.0, schedule="constant")
    shapes = {path: array.shape for path, array in parameters.items()}
    method = Method(config, make_optimizer(settings, shapes, 1), jnp.ones(LABELS), remat=remat)
    mesh = training_mesh()
    shardings = method.shardings(parameters, mesh)
    state = jax.jit(method.begin, out_shardings=shardings)(parameters)
    del parameters
    program = compiled_step(method, shardings, mesh)
    key = jax.random.key(0)
    data = []
    for each in batches():
        more = bucket(each["frame_mask"].shape[1], FRAME_BUCKETS) - each["frame_mask"].shape[1]
        arrays = {
            "features": np.pad(each["features"], ((0, 0), (0, more), (0, 0))),
            "frame_mask": np.pad(each["frame_mask"], ((0, 0), (0, more))),
            "labels": each["labels"].astype(np.int32),
            "valid": np.ones(CLIPS, bool),
        }
        data.append({name: jnp.asarray(array)[None] for name, array in arrays.items()})

    def step(number: int) -> jax.Array:
        nonlocal state
        state, measured = program(state, {}, data[number % BATCHES], jax.random.fold_in(key, number))
        return measured.loss

    return rest, step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
