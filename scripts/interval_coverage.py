"""Simulate how often the 95 % intervals of the metrics contain the true value.

    python scripts/interval_coverage.py [--sets 400] [--resamples 1000]

Scores are drawn from a known distribution over six labels, which are as frequent as in Spanish MEACorpus 2023. The true
values are those of 200,000 clips. Clips of one group share an error of their scores, as clips of one speaker do.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from speech_emotion_jax.evaluation.metrics import LabelledScores, bootstrap, confidence_intervals, group_codes, measure

LABELS = ("anger", "disgust", "fear", "joy", "neutral", "sadness")
PRIOR = (0.12, 0.14, 0.05, 0.20, 0.37, 0.12)
SHOWN = ("accuracy", "uar", "macro_f1", "weighted_precision", "weighted_f1", "ece", "log_loss")


@dataclass(frozen=True)
class World:
    """A distribution of clips.

    Attributes:
        groups: the number of groups in a data set.
        clips_a_group: the clips in each group.
        sharpness: how confident the checkpoint is. It is calibrated at 1 if `shared` is 0.
        shared: the standard deviation of the error that the clips of a group share.
    """

    groups: int
    clips_a_group: int
    sharpness: float = 1.0
    shared: float = 0.0

    def draw(self, seed: int, groups: int) -> tuple[list[str], np.ndarray, list[int]]:
        """Draw the clips of so many groups. Return their labels, probabilities and groups."""
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(groups), self.clips_a_group)
        true = rng.choice(len(LABELS), size=len(group), p=PRIOR)
        separation = 2.5
        evidence = rng.normal(separation * np.eye(len(LABELS))[true]) + rng.normal(0, self.shared, (groups, 6))[group]
        probabilities = softmax(self.sharpness * (separation * evidence + np.log(PRIOR)), axis=1)
        return [LABELS[number] for number in true], probabilities, group.tolist()


def coverage(world: World, *, by_group: bool, sets: int = 400, resamples: int = 1000) -> dict[str, float]:
    """Return, for each metric, the fraction of simulated data sets whose interval contains the true value.

    Args:
        world: the distribution of the clips.
        by_group: resample groups instead of clips.
        sets: how many data sets are simulated.
        resamples: how many bootstrap resamples each interval takes.
    """
    truth, probabilities, _ = world.draw(0, 200_000 // world.clips_a_group)
    true_values = measure(truth, probabilities, LABELS, resamples=1)
    hits = dict.fromkeys(SHOWN, 0)
    for number in range(sets):
        truth, probabilities, group = world.draw(1 + number, world.groups)
        outcome = LabelledScores.of(truth, probabilities, LABELS)
        codes = group_codes(group if by_group else None, len(truth))
        drawn = bootstrap(outcome, codes, resamples, seed=number)
        for name, (low, high) in confidence_intervals(outcome, drawn, int(codes.max()) + 1).items():
            if name in hits:
                hits[name] += low <= true_values[name] <= high
    return {name: count / sets for name, count in hits.items()}


WORLDS = (
    ("300 clips, calibrated", World(300, 1), False),
    ("300 clips, too sure", World(300, 1, sharpness=1.5), False),
    ("300 clips, far too sure", World(300, 1, sharpness=3.0), False),
    ("1,000 clips, too sure", World(1000, 1, sharpness=1.5), False),
    ("60 groups of 5, by group", World(60, 5, sharpness=1.5, shared=1.0), True),
    ("60 groups of 5, by clip", World(60, 5, sharpness=1.5, shared=1.0), False),
    ("20 groups of 15, by group", World(20, 15, sharpness=1.5, shared=2.0), True),
    ("20 groups of 15, by clip", World(20, 15, sharpness=1.5, shared=2.0), False),
)


def main() -> int:
    """Print the coverage of every metric in every world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="simulated data sets (default: 400)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of each (default: 1000)")
    options = parser.parse_args()
    print(f"{'intervals that hit, %':<28}" + "".join(f"{name:>20}" for name in SHOWN))
    for name, world, by_group in WORLDS:
        fractions = coverage(world, by_group=by_group, sets=options.sets, resamples=options.resamples)
        print(f"{name:<28}" + "".join(f"{100 * fractions[metric]:>20.1f}" for metric in SHOWN), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
