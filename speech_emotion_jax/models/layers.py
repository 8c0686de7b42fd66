"""What the encoders share: matrix products in the kernel's dtype, linear layers, stacks of equal layers.

Precision is a property of the weights, not a flag. A float32 kernel is multiplied at full precision (TPUs would use
bfloat16, NVIDIA GPUs TF32, unless told otherwise); a bfloat16 kernel is multiplied bfloat16 x bfloat16 with float32
accumulation. Activations between layers, norms and softmax are float32 in both cases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

Layer = TypeVar("Layer", bound=nnx.Module)


def contract(spec: str, activation: jax.Array, weight: jax.Array) -> jax.Array:
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
        y = contract("...i,io->...o", x, self.kernel[...])
        return y if self.bias is None else y + jnp.expand_dims(self.bias[...], tuple(range(y.ndim - 1)))


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the last axis with torch's two-pass variance; torch's default epsilon is 1e-5, not Flax's 1e-6."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def stacked(make: Callable[[nnx.Rngs], Layer], count: int, *, rngs: nnx.Rngs) -> Layer:
    """`count` equal layers as one module, whose parameters have a leading layer axis."""
    return nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(count))


def layer_at(layers: Layer, index: int) -> Layer:
    """One layer of a stack."""
    graph, parameters = nnx.split(layers)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[index], parameters))


def scan_layers(
    layers: Layer,
    apply: Callable[[Layer, jax.Array], jax.Array],
    x: Float[Array, "batch time width"],
    *,
    hidden_states: bool,
) -> tuple[Float[Array, "batch time width"], Float[Array, "states batch time width"] | None]:
    """Run a stack of layers one after the other, compiled once.

    Returns the last output and, on request, all hidden states: the input and each layer's output, layers + 1 in all.
    """
    graph, parameters = nnx.split(layers)

    def step(x: jax.Array, layer: Any) -> tuple[jax.Array, jax.Array | None]:
        y = apply(nnx.merge(graph, layer), x)
        return y, y if hidden_states else None

    last, outputs = jax.lax.scan(step, x, parameters)
    return last, None if outputs is None else jnp.concatenate([x[None], outputs])
