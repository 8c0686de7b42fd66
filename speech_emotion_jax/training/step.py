"""The training step, and the programs that run the model between steps.

The clips of a step are processed in `accumulation` parts, one after another. The loss is the mean over all of them, so
neither the number of parts nor the number of devices changes it.
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
    """Everything that a step changes.

    Attributes:
        learning: The parameters that are trained.
        optimizer: The state of the optimizer.
        average: The exponential moving average of the trained parameters; empty if it is off.
        step: The number of steps taken.
    """

    learning: Parameters
    optimizer: Any
    average: Parameters
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """Metrics of a step: the mean loss, the norm of its gradient, and the accuracy on its clips, as a fraction."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    accuracy: Float[Array, ""]


@dataclass(frozen=True)
class TrainingMethod:
    """The model, the loss and the optimizer of a training run.

    Attributes:
        config: The model's configuration.
        optimizer: The optimizer.
        class_weights: The weight of each label in the loss.
        label_smoothing: See `clip_losses`.
        focal: See `clip_losses`.
        precision: "float32" or "bfloat16".
        remat: Whether activations are recomputed in the backward pass, to save memory.
        frozen_layers: {"audio": n, "text": n}, the number of frozen lowest layers of each encoder.
        ema: The decay of the moving average of the parameters; 0 turns it off.
        across_batch: Whether multihead fusion attends across the clips of a part, as the original does.
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
        """Return which of "audio" and "text" have vectors that no step changes.

        Args:
            learning: The paths of the trained parameters.
        """
        paths = {"audio": ("audio_encoder.", "projector.", "layer_weights"), "text": ("text_encoder.",)}
        has = {"audio": self.config.audio is not None, "text": self.config.text is not None}
        return frozenset(
            kind for kind in paths if has[kind] and not any(path.startswith(paths[kind]) for path in learning)
        )

    def init_state(self, learning: Parameters) -> TrainState:
        """Return the state before the first step."""
        average = jax.tree.map(jnp.copy, learning) if self.ema else {}
        return TrainState(learning, self.optimizer.init(learning), average, jnp.int32(0))

    def shardings(self, learning: Parameters, mesh: Mesh) -> TrainState:
        """Return the sharding of each array of the state. Arrays of a parameter are sharded like the parameter."""
        of = parameter_shardings({path: array.shape for path, array in learning.items()}, mesh)
        everywhere = NamedSharding(mesh, PartitionSpec())

        def sharding(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            """Return the sharding of one array of the state."""
            names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
            fits = bool(names) and names[-1] in learning and leaf.shape == learning[names[-1]].shape
            return of[names[-1]] if fits else everywhere

        return jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(self.init_state, learning))

    def step(
        self, state: TrainState, frozen: Parameters, batch: Arrays, key: Key[Array, ""] | None
    ) -> tuple[TrainState, StepMetrics]:
        """Train on a batch.

        Args:
            state: The state before the step.
            frozen: The parameters that are not trained.
            batch: Arrays of shape (parts, clips, ...).
            key: The random key of the step; None for no dropout.
        """
        weight = (self.class_weights[batch["labels"]] * batch["valid"]).sum()

        def part(total: Parameters, each: tuple[Arrays, jax.Array]) -> tuple[Parameters, tuple[jax.Array, jax.Array]]:
            """Add the gradient of one part to the total."""
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
        """Return the part's contribution to the mean loss of its batch, whose weights sum to `weight`, and its hits."""
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
        # A batch without a readable clip has weight 0 and must not change anything.
        return jnp.where(valid, losses, 0.0).sum() / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny), right

    def _encoded(
        self, model: EmotionModel, kind: str, arrays: Arrays, learning: Parameters, key: jax.Array | None
    ) -> jax.Array | None:
        """Return the vectors of a modality: precomputed, from a frozen encoder, or from a trained one."""
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
        """Return the model with these parameters cast to the precision. The parameters themselves stay float32."""
        parameters = {
            path: array.astype(parameter_dtype(path, self.precision)) for path, array in (learning | frozen).items()
        }
        return with_parameters(self.config, parameters)

    def probabilities(self, parameters: Parameters, batch: Arrays) -> Float[Array, "clips labels"]:
        """Return the probabilities of a batch of one part, as in inference; NaN for clips that can't be read."""
        arrays = {name: each[0] for name, each in batch.items()}
        model = self.model(parameters, {})
        logits = model.classify(
            self._encoded(model, "audio", arrays, {}, None), self._encoded(model, "text", arrays, {}, None)
        )
        return jnp.where(arrays["valid"][:, None], model.probabilities(logits), jnp.nan)

    def vectors(self, kind: str, parameters: Parameters, batch: Arrays) -> Float[Array, "1 clips width"]:
        """Return the pooled vectors of "audio" or "text" for a batch of one part; NaN for clips that can't be read."""
        arrays = {name: each[0] for name, each in batch.items()}
        encoded = self._encoded(self.model(parameters, {}), kind, arrays, {}, None)
        assert encoded is not None
        return jnp.where(arrays["valid"][:, None], encoded, jnp.nan)[None]


def jit_step(
    method: TrainingMethod, shardings: TrainState, mesh: Mesh
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """Return `method.step` as a jitted function that reuses the memory of the state it is given."""
    return jax.jit(method.step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())))
