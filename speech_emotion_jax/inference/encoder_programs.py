"""An encoder as the programs that run it.

Most platforms run the whole encoder as one program. On a CPU there is one program for the input, one for a few layers
at a time, and one for the output. A CPU program that scans a stack of layers copies the weights of each layer before it
multiplies by them, and converts a stack of bfloat16 to float32 as a whole. A program that names its layers one by one
copies nothing, but a program of all layers takes long to compile. A program of a few layers is compiled once and called
for all layers in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from flax import nnx

from ..models import EmotionModel, unstack

# Layers per program on a CPU. Each call allocates its memory anew, so that programs of one layer take 4 to 10 % more
# time (1,536 frames, float32 and bfloat16). The published encoders have 24 and 12 layers.
LAYERS = 4

Kind = Literal["audio", "text"]
Pooling = Callable[[EmotionModel, Any], jax.Array]  # From the model and its encoder's states to the output.


class Step(NamedTuple):
    """A program, `function(parameters, x, mask)`.

    `x` is the features, the token ids, or the output of the step before.
    """

    name: str
    function: Callable[[Any, jax.Array, jax.Array], jax.Array]
    parameters: Any


def encoder_steps(model: EmotionModel, kind: Kind, pooling: Pooling, platform: str) -> list[Step]:
    """Build the programs that run an encoder on a platform and then apply `pooling`.

    Args:
        model: The model, or an abstract one.
        kind: Which of its encoders.
        pooling: Computes the output of the last step from the model and the encoder's states.
        platform: "cpu", "gpu" or "tpu".

    Returns:
        The programs in the order in which they run.
    """
    name = f"the {kind} encoder"
    weighted = kind == "audio" and model.layer_weights is not None
    if platform != "cpu" or weighted:  # A weighted sum needs the states of all layers in one program.

        def whole(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
            return pooling(model, _encoder(model, kind)(x, mask, hidden_states=weighted))

        return [_step(name, model, whole)]

    def embed(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
        return _encoder(model, kind).embed(x, mask)

    def finalize(model: EmotionModel, x: jax.Array, mask: jax.Array) -> jax.Array:
        return pooling(model, _encoder(model, kind).finalize(x, mask))

    rest = nnx.merge(*nnx.split(model))  # A copy of the structure that shares the arrays.
    for encoder in (rest.audio_encoder, rest.text_encoder):
        if encoder is not None:
            encoder.layers = nnx.data(None)
    return [
        _step(f"{name}'s input", rest, embed),
        *(_step(f"{len(layers)} layers of {name}", nnx.List(layers), _layers) for layers in _chunks(model, kind)),
        _step(f"{name}'s output", rest, finalize),
    ]


def _encoder(model: EmotionModel, kind: Kind) -> Any:
    return model.audio_encoder if kind == "audio" else model.text_encoder


def _chunks(model: EmotionModel, kind: Kind) -> Iterator[Sequence[Any]]:
    layers = list(unstack(_encoder(model, kind).layers))
    for first in range(0, len(layers), LAYERS):
        yield layers[first : first + LAYERS]


def _layers(layers: Sequence[Any], x: jax.Array, mask: jax.Array) -> jax.Array:
    for layer in layers:
        x = _layer(*nnx.split(layer), x, mask)
    return x


@partial(jax.jit, static_argnums=0)
def _layer(graph: nnx.GraphDef, parameters: Any, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Apply one layer. As a function of its own it is traced once for all layers of a program."""
    return nnx.merge(graph, parameters)(x, mask)


def _step(name: str, module: nnx.Module, function: Callable[[Any, jax.Array, jax.Array], jax.Array]) -> Step:
    graph, parameters = nnx.split(module)
    return Step(name, partial(_call, graph, function), parameters)


def _call(
    graph: nnx.GraphDef, function: Callable[..., jax.Array], parameters: Any, x: jax.Array, mask: jax.Array
) -> jax.Array:
    """Apply a module's function to its parameters.

    The partial function that a step holds has the structure of the module and none of its arrays.
    """
    return function(nnx.merge(graph, parameters), x, mask)
