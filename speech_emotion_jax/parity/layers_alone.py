"""The layers of a stack, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float


def run_layers_alone(
    stack: nnx.Module,
    apply: Callable[[Any, Float[Array, "1 time width"]], Float[Array, "1 time width"]],
    states: Float[Array, "states time width"],
) -> Float[Array, "layers time width"]:
    """What each layer makes of the state before it: states are the input and the output of every layer."""
    graph, weights = nnx.split(stack)

    def run(each: tuple[Any, jax.Array]) -> jax.Array:
        return apply(nnx.merge(graph, each[0]), each[1][None])[0]

    return jax.lax.map(run, (weights, states[:-1]))
