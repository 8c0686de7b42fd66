"""Fine-tuning: recipes, data, loss, optimizer, the loop, and cross-validation."""

from .folds import cross_validate
from .named_recipes import find_recipe
from .optimizer import frozen_layers, make_optimizer, trainable_paths
from .recipe import OptimizerConfig, read_recipe
from .run import TrainConfig, train
from .step import TrainingMethod, jit_step

__all__ = [
    "OptimizerConfig",
    "TrainConfig",
    "TrainingMethod",
    "cross_validate",
    "find_recipe",
    "frozen_layers",
    "jit_step",
    "make_optimizer",
    "read_recipe",
    "train",
    "trainable_paths",
]
