"""Fine-tuning: recipes, data, loss, optimizer, the loop, and cross-validation."""

from .folds import cross_validate
from .optimizer import frozen_layers, make_optimizer, trainable
from .recipe import Optimizer, read_recipe
from .run import TrainConfig, train
from .step import Method, compiled_step

__all__ = [
    "Method",
    "Optimizer",
    "TrainConfig",
    "compiled_step",
    "cross_validate",
    "frozen_layers",
    "make_optimizer",
    "read_recipe",
    "train",
    "trainable",
]
