"""How often the 95 % intervals of the metrics hold the true value, in a simulation.

    python scripts/interval_coverage.py [--sets 400] [--resamples 1000]

Scores of six labels as frequent as in Spanish MEACorpus 2023 are drawn from a known distribution; the true values are
those of 200,000 clips. Where clips come in groups, a group's clips share an error of their scores, as a speaker's do.
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
    """Where clips come from. A sharpness of 1 is a calibrated checkpoint, as long as `shared` is 0."""

    groups: int
    clips_a_group: int
    sharpness: float = 1.0
    shared: float = 0.0  # standard deviation of the error that a group's clips share

    def draw(self, seed: int, groups: int) -> tuple[list[str], np.ndarray, list[int]]:
        """(truth, probabilities, group) of the clips of so many groups."""
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(groups), self.clips_a_group)
        true = rng.choice(len(LABELS), size=len(group), p=PRIOR)
        separation = 2.5
        seen = rng.normal(separation * np.eye(len(LABELS))[true]) + rng.normal(0, self.shared, (groups, 6))[group]
        probabilities = softmax(self.sharpness * (separation * seen + np.log(PRIOR)), axis=1)
        return [LABELS[number] for number in true], probabilities, group.tolist()


def coverage(world: World, *, by_group: bool, sets: int = 400, resamples: int = 1000) -> dict[str, float]:
    """The share of simulated data sets whose interval holds the true value, by metric."""
    truth, probabilities, _ = world.draw(0, 200_000 // world.clips_a_group)
    true_values = measure(truth, probabilities, LABELS, resamples=1)
    held = dict.fromkeys(SHOWN, 0)
    for number in range(sets):
        truth, probabilities, group = world.draw(1 + number, world.groups)
        outcome = LabelledScores.of(truth, probabilities, LABELS)
        drawn = bootstrap(outcome, group_codes(group if by_group else None, len(truth)), resamples, seed=number)
        for name, (low, high) in confidence_intervals(outcome, drawn).items():
            if name in held:
                held[name] += low <= true_values[name] <= high
    return {name: count / sets for name, count in held.items()}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="simulated data sets (default: 400)")
    parser.add_argument("--resamples", type=int, default=1000, help="of each (default: 1000)")
    options = parser.parse_args()
    print(f"{'share of intervals, %':<28}" + "".join(f"{name:>20}" for name in SHOWN))
    for name, world, by_group in WORLDS:
        shares = coverage(world, by_group=by_group, sets=options.sets, resamples=options.resamples)
        print(f"{name:<28}" + "".join(f"{100 * shares[metric]:>20.1f}" for metric in SHOWN), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
