"""Building blocks of all encoders: matrix products in the kernel's dtype, linear layers, and stacks of equal layers.

Precision is a property of the weights. A float32 kernel is multiplied at full precision; by default, TPUs would
multiply it in bfloat16 and NVIDIA GPUs in TF32. A bfloat16 kernel is multiplied bfloat16 x bfloat16 with float32
accumulation. Activations between layers, norms and softmax are float32 in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from ..runtime.compat import is_traced


@jax.custom_jvp
def erfc(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Compute the complementary error function, with the derivative -2 / sqrt(pi) exp(-x²).

    JAX 0.12 computes that derivative by a polynomial that `shard_map` refuses ("requires varying manual axes to
    match"). The formula below is the one of JAX 0.10.
    """
    return jax.lax.erfc(x)


@erfc.defjvp
def _erfc_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    return erfc(x), (-2 / math.sqrt(math.pi)) * (tangent * jnp.exp(-jnp.square(x)))


def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Compute the exact Gaussian error linear unit, x / 2 erfc(-x / sqrt(2)) (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * erfc(-x * np.sqrt(0.5).astype(x.dtype))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

Layer = TypeVar("Layer", bound=nnx.Module)


class Learning(NamedTuple):
    """What differs in an encoder during training.

    Attributes:
        key: Draws dropout, SpecAugment's masks and dropped layers. None turns all of them off.
        remat: Recompute each layer in the backward pass in place of storing its activations.
        frozen: How many of the lowest layers are not trained. They run as in inference.
    """

    key: Key[Array, ""] | None = None
    remat: bool = False
    frozen: int = 0


def split_key(key: Key[Array, ""] | None, count: int) -> list[Any]:
    """Split a key into `count` keys; without a key return `count` times None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(x: Float[Array, "*any"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*any"]:
    """Zero each element with probability `rate` and scale the others by 1 / (1 - rate). Without a key return `x`."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def contract(spec: str, activation: Float[Array, "*left"], weight: Float[Array, "*right"]) -> Float[Array, "*product"]:
    """Compute `einsum` in the dtype of `weight`, accumulated and returned in float32."""
    return jnp.einsum(
        spec,
        activation.astype(weight.dtype),
        weight,
        precision=jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


class Linear(nnx.Module):
    """A linear layer, y = x @ kernel + bias, with a kernel of shape (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
        """Initialize the kernel at random and the bias, if any, with zeros."""
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else nnx.data(None)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Apply the layer to the last axis."""
        # The batch axes are merged into one, because with several the gradient of the kernel takes three times as long
        # on CPUs.
        rows = contract("ni,io->no", x.reshape(-1, x.shape[-1]), self.kernel[...])
        y = rows.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], tuple(range(y.ndim - 1)))


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a LayerNorm over the last axis that computes the variance in two passes, as torch does.

    Pass torch's epsilon, 1e-5 by default: the default of Flax is 1e-6.
    """
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def stacked(make: Callable[[nnx.Rngs], Layer], count: int, *, rngs: nnx.Rngs) -> Layer:
    """Return `count` equal layers as one module whose parameters have a leading layer axis."""
    return nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(count))


def layer_at(layers: Layer, index: int) -> Layer:
    """Return one layer of a stack. On a CPU its arrays are views of the stack's, without a copy."""
    graph, parameters = nnx.split(layers)

    def at(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=leaf.sharding)
        if is_traced(leaf) or next(iter(leaf.devices())).platform != "cpu":
            return leaf[index]
        return jax.device_put(np.asarray(leaf)[index], leaf.sharding)

    return nnx.merge(graph, jax.tree.map(at, parameters))


def unstack(layers: Layer) -> Sequence[Layer]:
    """Return the layers of a stack as a list.

    On a CPU, a program that scans a stack copies the weights of each layer before it multiplies by them, and converts a
    stack of bfloat16 to float32 as a whole. The weights of listed layers are read in place.
    """
    count = len(jax.tree.leaves(nnx.state(layers))[0])
    return nnx.List([layer_at(layers, index) for index in range(count)])


def scan_layers(
    layers: Layer,
    apply: Callable[[Layer, Float[Array, "batch time width"], Key[Array, ""] | None], Float[Array, "batch time width"]],
    x: Float[Array, "batch time width"],
    *,
    hidden_states: bool,
    learning: Learning | None = None,
    layerdrop: float = 0.0,
) -> tuple[Float[Array, "batch time width"], Float[Array, "states batch time width"] | None]:
    """Apply the layers of a stack one after the other. The layer is compiled once.

    Args:
        layers: The stack.
        apply: Applies one layer to its input, given a key for its dropout or None.
        x: Input of the first layer.
        hidden_states: Whether to return all hidden states.
        learning: What differs in training. None runs the layers as in inference.
        layerdrop: Probability in training that a layer is skipped (Fan et al. 2019).

    Returns:
        The output of the last layer, and either None or all hidden states: the input and each layer's output, layers +
        1 in all.
    """
    graph, parameters = nnx.split(layers)

    def step(x: jax.Array, layer: tuple[Any, jax.Array | None]) -> tuple[jax.Array, jax.Array | None]:
        weights, key = layer

        def run(x: jax.Array) -> jax.Array:
            return apply(nnx.merge(graph, weights), x, key)

        if key is not None and layerdrop > 0:
            key, left_out = jax.random.split(key)
            y = jax.lax.cond(jax.random.bernoulli(left_out, layerdrop), lambda x: x, run, x)
        else:
            y = run(x)
        return y, y if hidden_states else None

    if learning is None:
        last, outputs = jax.lax.scan(step, x, (parameters, None))
        return last, None if outputs is None else jnp.concatenate([x[None], outputs])

    count, frozen = len(jax.tree.leaves(parameters)[0]), learning.frozen
    states = [x[None]]
    if frozen:
        lower = jax.lax.stop_gradient(jax.tree.map(lambda leaf: leaf[:frozen], parameters))
        x, outputs = jax.lax.scan(step, x, (lower, None))
        states += [] if outputs is None else [outputs]
    keys = None if learning.key is None else jax.random.split(learning.key, count - frozen)
    learn = jax.checkpoint(step, prevent_cse=False) if learning.remat else step
    x, outputs = jax.lax.scan(learn, x, (jax.tree.map(lambda leaf: leaf[frozen:], parameters), keys))
    return x, None if outputs is None else jnp.concatenate([*states, outputs])
