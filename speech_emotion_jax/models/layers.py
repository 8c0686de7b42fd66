"""What the encoders share: matrix products in the kernel's dtype, linear layers, stacks of equal layers.

Precision is a property of the weights, not a flag. A float32 kernel is multiplied at full precision (TPUs would use
bfloat16, NVIDIA GPUs TF32, unless told otherwise); a bfloat16 kernel is multiplied bfloat16 x bfloat16 with float32
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
from jax.core import Tracer
from jaxtyping import Array, Float, Key


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
    """What differs in an encoder while it learns.

    `key` draws what is dropped and masked, None for nothing at all. `remat` computes each layer a second time on the
    way back, in place of keeping what is inside it. The lowest `frozen` layers don't learn: they run as in inference.
    """

    key: Key[Array, ""] | None = None
    remat: bool = False
    frozen: int = 0


def split_key(key: Key[Array, ""] | None, count: int) -> list[Any]:
    """`count` keys for `count` draws, or as many None for none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(x: Float[Array, "*any"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*any"]:
    """Zero each element with probability `rate` and scale the rest up by 1 / (1 - rate); without a key do nothing."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def contract(spec: str, activation: Float[Array, "*left"], weight: Float[Array, "*right"]) -> Float[Array, "*product"]:
    """`einsum` in the dtype of `weight`, accumulated and returned in float32."""
    return jnp.einsum(
        spec,
        activation.astype(weight.dtype),
        weight,
        precision=jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


class Linear(nnx.Module):
    """y = x @ kernel + bias, kernel (inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else nnx.data(None)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        # One row axis: with several, XLA's CPU takes three times as long for the gradient of the kernel.
        rows = contract("ni,io->no", x.reshape(-1, x.shape[-1]), self.kernel[...])
        y = rows.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], tuple(range(y.ndim - 1)))


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis with torch's two-pass variance; torch's default epsilon is 1e-5, not Flax's 1e-6."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def stacked(make: Callable[[nnx.Rngs], Layer], count: int, *, rngs: nnx.Rngs) -> Layer:
    """`count` equal layers as one module, whose parameters have a leading layer axis."""
    return nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(count))


def layer_at(layers: Layer, index: int) -> Layer:
    """One layer of a stack. Of arrays in a CPU's memory nothing is copied."""
    graph, parameters = nnx.split(layers)

    def at(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=leaf.sharding)
        if isinstance(leaf, Tracer) or next(iter(leaf.devices())).platform != "cpu":
            return leaf[index]
        return jax.device_put(np.asarray(leaf)[index], leaf.sharding)

    return nnx.merge(graph, jax.tree.map(at, parameters))


def unstack(layers: Layer) -> Sequence[Layer]:
    """The layers of a stack one by one.

    A program that scans a stack copies the weights of each layer on a CPU before it multiplies by them, and widens a
    stack of bfloat16 as a whole. Those that are held one by one are read where they are.
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
    """Run the layers of a stack one after the other, compiled once.

    `apply` takes a layer, its input and a key for what it drops, or None. While learning, `layerdrop` is the
    probability that a layer is left out (Fan et al. 2019). Returns the last output and, on request, all hidden states:
    the input and each layer's output, layers + 1 in all.
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
