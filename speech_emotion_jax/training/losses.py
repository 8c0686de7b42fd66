"""What a step makes small: cross-entropy of each clip, with class weights, label smoothing and focal modulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def clip_losses(
    logits: Float[Array, "batch labels"],
    labels: Int[Array, " batch"],
    *,
    weights: Float[Array, " labels"],
    label_smoothing: float,
    focal: float,
) -> Float[Array, " batch"]:
    """Loss and weight of each clip, float32; the loss of a batch is sum(losses) / sum(weights) over its real clips.

    A clip's target is q = (1 - label_smoothing) one-hot + label_smoothing / labels, and its loss

        sum over labels c of  q_c * weights_c * (1 - p_c)^focal * -log p_c,    p = softmax(logits).

    With focal 0 the mean is that of torch.nn.functional.cross_entropy(weight=..., label_smoothing=...), which weighs
    each term of the smoothed target by that term's own label and divides by the weights of the true labels alone.
    Without smoothing it is the focal loss of Lin et al. 2017 (Focal Loss for Dense Object Detection, eq. 5), alpha
    being the weights. Together, each term of the target is modulated by its own label's probability: smoothing still
    acts on a clip whose true label is certain. `labels` of clips that are padding may be any valid label.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    count = logits.shape[-1]
    target = (1 - label_smoothing) * jax.nn.one_hot(labels, count) + label_smoothing / count
    terms = -log_p
    if focal:
        # log(1 - p_c) from the other labels: 1 - p itself rounds to 0 where the gradient of its power is infinite.
        others = jnp.where(jnp.eye(count, dtype=bool)[None], -jnp.inf, log_p[:, None, :])
        terms *= jnp.exp(focal * jax.nn.logsumexp(others, axis=-1))
    return (target * weights[None] * terms).sum(axis=-1)


def class_weights(counts: Int[np.ndarray, " labels"]) -> Float[np.ndarray, " labels"]:
    """Balanced weights (labels,) float32: clips / (labels present * clips of the label).

    Every label that occurs then weighs the same in all, and the mean weight of a clip is 1. A label without a clip gets
    1, that of a label of average frequency: it has no training clip to weigh, and a validation clip of it still counts.
    """
    present = counts > 0
    balanced = counts.sum() / (max(present.sum(), 1) * np.maximum(counts, 1))
    return np.where(present, balanced, 1.0).astype(np.float32)
