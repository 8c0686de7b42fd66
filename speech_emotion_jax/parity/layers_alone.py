"""Run every layer of a stack on a given input, so that no error is passed from one layer to the next."""

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
    """Run each layer of a stack on the reference state before it.

    Args:
        stack: layers whose parameters are stacked along the first axis.
        apply: runs one layer on one state.
        states: the reference states: the input of the first layer, then the output of every layer.

    Returns:
        The output of every layer.
    """
    graph, weights = nnx.split(stack)

    def run(each: tuple[Any, jax.Array]) -> jax.Array:
        return apply(nnx.merge(graph, each[0]), each[1][None])[0]

    return jax.lax.map(run, (weights, states[:-1]))
