"""One step of training, and what is asked of the model between steps, as programs on a mesh.

A step's clips come in `accumulation` parts, worked on one after the other; the loss is that of all of them together, so
neither the number of parts nor that of the devices changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from ..config import EmotionConfig
from ..models import EmotionModel, Learning, split_key, with_parameters
from ..runtime.precision import parameter_dtype
from ..runtime.sharding import parameter_shardings
from .losses import clip_losses

Parameters = dict[str, jax.Array]
Arrays = Mapping[str, jax.Array]


class TrainState(NamedTuple):
    """All that a step changes: the parameters that learn, the optimizer's state, and the mean of the parameters.

    `average` is the exponential moving average where it is asked for, else empty. `step` counts the steps taken.
    """

    learning: Parameters
    optimizer: Any
    average: Parameters
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """What a step says of itself: the mean loss, the norm of its gradient, and the share of clips it had right."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    accuracy: Float[Array, ""]


@dataclass(frozen=True)
class TrainingMethod:
    """How a model learns.

    `class_weights` (labels,) weigh the clips' losses; `frozen_layers` is {"audio": n, "text": n}, of the lowest layers;
    `ema` is the average's decay, 0 for none; `across_batch` couples the clips of a part, as the original's multihead
    fusion does.
    """

    config: EmotionConfig
    optimizer: optax.GradientTransformation
    class_weights: Float[Array, " labels"]
    label_smoothing: float = 0.0
    focal: float = 0.0
    precision: str = "float32"
    remat: bool = False
    frozen_layers: Mapping[str, int] | None = None
    ema: float = 0.0
    across_batch: bool = False

    def computed_once(self, learning: Collection[str]) -> frozenset[str]:
        """Of "audio" and "text" those whose vectors no step changes, `learning` being the paths that learn."""
        paths = {"audio": ("audio_encoder.", "projector.", "layer_weights"), "text": ("text_encoder.",)}
        has = {"audio": self.config.audio is not None, "text": self.config.text is not None}
        return frozenset(
            kind for kind in paths if has[kind] and not any(path.startswith(paths[kind]) for path in learning)
        )

    def init_state(self, learning: Parameters) -> TrainState:
        """The state before the first step."""
        average = jax.tree.map(jnp.copy, learning) if self.ema else {}
        return TrainState(learning, self.optimizer.init(learning), average, jnp.int32(0))

    def shardings(self, learning: Parameters, mesh: Mesh) -> TrainState:
        """Where each array of the state lies: what belongs to a parameter lies where the parameter does."""
        of = parameter_shardings({path: array.shape for path, array in learning.items()}, mesh)
        everywhere = NamedSharding(mesh, PartitionSpec())

        def sharding(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            fits = bool(names) and names[-1] in learning and leaf.shape == learning[names[-1]].shape
            return of[names[-1]] if fits else everywhere

        return jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(self.init_state, learning))

    def step(
        self, state: TrainState, frozen: Parameters, batch: Arrays, key: Key[Array, ""] | None
    ) -> tuple[TrainState, StepMetrics]:
        """Learn from a batch of arrays (parts, clips, ...); `key` draws all noise of the step, None for none."""
        weight = (self.class_weights[batch["labels"]] * batch["valid"]).sum()

        def part(total: Parameters, each: tuple[Arrays, jax.Array]) -> tuple[Parameters, tuple[jax.Array, jax.Array]]:
            arrays, index = each
            part_key = None if key is None else jax.random.fold_in(key, index)
            (loss, right), gradient = jax.value_and_grad(self._loss, has_aux=True)(
                state.learning, frozen, arrays, part_key, weight
            )
            return jax.tree.map(jnp.add, total, gradient), (loss, right)

        parts = len(batch["labels"])
        zero = jax.tree.map(jnp.zeros_like, state.learning)
        if parts == 1:
            gradient, (losses, rights) = part(zero, ({name: each[0] for name, each in batch.items()}, jnp.int32(0)))
        else:
            gradient, (losses, rights) = jax.lax.scan(part, zero, (batch, jnp.arange(parts)))
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.learning)
        learning: Any = optax.apply_updates(state.learning, updates)
        average = (
            jax.tree.map(lambda mean, new: self.ema * mean + (1 - self.ema) * new, state.average, learning)
            if self.ema
            else {}
        )
        measured = StepMetrics(losses.sum(), optax.tree.norm(gradient), rights.sum() / batch["valid"].sum())
        return TrainState(learning, optimizer, average, state.step + 1), measured

    def _loss(
        self,
        learning: Parameters,
        frozen: Parameters,
        arrays: Arrays,
        key: jax.Array | None,
        weight: Float[Array, ""],
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """What these clips add to the mean loss of a batch whose weights sum to `weight`, and how many are right."""
        audio_key, text_key, head_key = split_key(key, 3)
        model = self.model(learning, frozen)
        audio = self._encoded(model, "audio", arrays, learning, audio_key)
        text = self._encoded(model, "text", arrays, learning, text_key)
        logits = model.classify(audio, text, across_batch=self.across_batch, key=head_key)
        losses = clip_losses(
            logits,
            arrays["labels"],
            weights=self.class_weights,
            label_smoothing=self.label_smoothing,
            focal=self.focal,
        )
        valid = arrays["valid"]
        right = ((logits.argmax(axis=-1) == arrays["labels"]) & valid).sum()
        # A batch none of whose clips could be read has no weight, and teaches nothing.
        return jnp.where(valid, losses, 0.0).sum() / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny), right

    def _encoded(
        self, model: EmotionModel, kind: str, arrays: Arrays, learning: Parameters, key: jax.Array | None
    ) -> jax.Array | None:
        """The vectors of a modality: as they were computed before, by a frozen encoder, or by one that learns."""
        inputs = ("features", "frame_mask") if kind == "audio" else ("ids", "token_mask")
        if kind in arrays:
            return arrays[kind]
        if inputs[0] not in arrays:
            return None
        how = None
        if any(path.startswith(f"{kind}_encoder.") for path in learning):
            how = Learning(key, self.remat, (self.frozen_layers or {}).get(kind, 0))
        values, mask = (arrays[name] for name in inputs)
        return model.encode_audio(values, mask, how) if kind == "audio" else model.encode_text(values, mask, how)

    def model(self, learning: Parameters, frozen: Parameters) -> EmotionModel:
        """The model of these parameters, in the dtypes of the precision; the parameters themselves stay float32."""
        parameters = {
            path: array.astype(parameter_dtype(path, self.precision)) for path, array in (learning | frozen).items()
        }
        return with_parameters(self.config, parameters)

    def probabilities(self, parameters: Parameters, batch: Arrays) -> Float[Array, "clips labels"]:
        """Of a batch of one part, as in inference; NaN for clips that can't be read."""
        arrays = {name: each[0] for name, each in batch.items()}
        model = self.model(parameters, {})
        logits = model.classify(
            self._encoded(model, "audio", arrays, {}, None), self._encoded(model, "text", arrays, {}, None)
        )
        return jnp.where(arrays["valid"][:, None], model.probabilities(logits), jnp.nan)

    def vectors(self, kind: str, parameters: Parameters, batch: Arrays) -> Float[Array, "1 clips width"]:
        """What the encoder of "audio" or "text" makes of a batch of one part; NaN for clips that can't be read."""
        arrays = {name: each[0] for name, each in batch.items()}
        encoded = self._encoded(self.model(parameters, {}), kind, arrays, {}, None)
        assert encoded is not None
        return jnp.where(arrays["valid"][:, None], encoded, jnp.nan)[None]


def jit_step(
    method: TrainingMethod, shardings: TrainState, mesh: Mesh
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """`method.step` as a program that reuses the memory of the state it is given."""
    return jax.jit(method.step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())))
