"""Both sides of a recording, stage by stage, held against the budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten

from ..errors import InvalidInput
from .difference import Difference, budget
from .reference_activations import FullActivation, SampledActivation
from .stages import Stages


@dataclass(frozen=True)
class StageVerdict:
    """A stage of a recording.

    `found` is the difference of both sides' networks, `alone` that of the stage by itself, None where it was not
    computed. `used` is the largest share of a budget that was taken, above 1 the stage fails, and `by` the number that
    took it: "largest", "mean" or "gain", with ", alone" where it is one of the stage by itself.
    """

    stage: str
    difference: Difference | None
    alone: Difference | None
    budget_used: float
    criterion: str = ""
    remark: str = ""

    @property
    def passed(self) -> bool:
        return self.budget_used <= 1


@dataclass(frozen=True)
class Verdict:
    """All stages of a recording and what is said in it, in order; each is empty where the model has no use for it."""

    recording: str
    text: str
    rows: tuple[StageVerdict, ...]

    @property
    def name(self) -> str:
        """By which a report tells it from others."""
        said = f'"{shorten(self.text, 40, placeholder=" ...")}"' if self.text else ""
        return ", ".join(each for each in (self.recording, said) if each)

    @property
    def first_failure(self) -> StageVerdict | None:
        return next((row for row in self.rows if not row.passed), None)

    @property
    def worst(self) -> StageVerdict:
        return max(self.rows, key=lambda row: row.budget_used)


def judge(
    recording: str,
    text: str,
    theirs: Mapping[str, FullActivation] | Mapping[str, SampledActivation],
    ours: Stages,
    alone: Stages,
    precision: str,
) -> Verdict:
    """Hold ours, and what each of our stages makes of the original's stage before it, against the original's.

    Raises InvalidInput where one side has a stage that the other doesn't have.
    """
    if odd := [stage for stage in theirs if stage not in ours]:
        raise InvalidInput(
            f"the original has the stage {odd[0]!r} of {recording}, and this checkpoint does not: it is another "
            "architecture; name the checkpoint that was recorded"
        )
    if odd := [stage for stage in ours if stage not in theirs]:
        raise InvalidInput(
            f"this checkpoint has the stage {odd[0]!r} of {recording}, and the original does not: it is another "
            "architecture; name the checkpoint that was recorded"
        )
    rows = []
    for stage, kept in theirs.items():
        if ours[stage].shape != kept.shape:
            remark = f"ours has the shape {ours[stage].shape}, the original {kept.shape}"
            rows.append(StageVerdict(stage, None, None, math.inf, remark=remark))
            continue
        found = kept.compare(ours[stage])
        by_itself = kept.compare(alone[stage]) if stage in alone else None
        used, by = budget(stage, precision).fraction_used(found)
        if by_itself is not None:
            used_alone, by_alone = budget(stage, precision, alone=True).fraction_used(by_itself)
            if used_alone > used:
                used, by = used_alone, f"{by_alone}, alone"
        rows.append(StageVerdict(stage, found, by_itself, used, by if used else ""))
    return Verdict(recording, text, tuple(rows))


def worst_rows(verdicts: Sequence[Verdict]) -> list[tuple[StageVerdict, Verdict]]:
    """Of each stage the row that takes most of its budget, and the recording that it is of."""
    worst = []
    for rows in zip(*(verdict.rows for verdict in verdicts), strict=True):
        place = max(range(len(rows)), key=lambda number: rows[number].budget_used)
        worst.append((rows[place], verdicts[place]))
    return worst
