"""The training loss: cross-entropy of each clip, with class weights, label smoothing and focal modulation."""

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
    """Compute the loss of each clip, float32.

    A clip's target is q = (1 - label_smoothing) one-hot + label_smoothing / labels, and its loss is

        sum over labels c of  q_c * weights_c * (1 - p_c)^focal * -log p_c,    p = softmax(logits).

    The loss of a batch is the sum of the losses divided by the sum of `weights[labels]`, both over its valid clips.
    With focal 0 this mean is that of torch.nn.functional.cross_entropy(weight=..., label_smoothing=...). Without
    smoothing it is the focal loss of Lin et al. 2017 (Focal Loss for Dense Object Detection, eq. 5), with the weights
    as alpha. With both, each term of the target is modulated by its own label's probability, so smoothing still acts
    on clips whose true label is certain.

    Args:
        logits: The outputs of the model.
        labels: The true label of each clip. Clips that are padding may have any valid label.
        weights: The weight of each label.
        label_smoothing: The fraction of the target that is spread evenly over all labels.
        focal: The exponent gamma of the focal loss; 0 turns it off.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    count = logits.shape[-1]
    target = (1 - label_smoothing) * jax.nn.one_hot(labels, count) + label_smoothing / count
    terms = -log_p
    if focal:
        # log(1 - p_c) is computed from the other labels. 1 - p would round to 0, where the power's gradient is
        # infinite.
        others = jnp.where(jnp.eye(count, dtype=bool)[None], -jnp.inf, log_p[:, None, :])
        terms *= jnp.exp(focal * jax.nn.logsumexp(others, axis=-1))
    return (target * weights[None] * terms).sum(axis=-1)


def class_weights(counts: Int[np.ndarray, " labels"]) -> Float[np.ndarray, " labels"]:
    """Compute balanced class weights, float32: clips / (labels present * clips of the label).

    Every label that occurs then has the same total weight, and the mean weight of a clip is 1. A label without training
    clips gets weight 1, like a label of average frequency, because a validation clip may still have it.

    Args:
        counts: The number of training clips of each label.
    """
    present = counts > 0
    balanced = counts.sum() / (max(present.sum(), 1) * np.maximum(counts, 1))
    return np.where(present, balanced, 1.0).astype(np.float32)
