"""Compare both sides of a recording stage by stage with the budgets."""

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
    """The verdict on one stage of a recording.

    Attributes:
        stage: the stage's name.
        difference: the difference between the two networks. None if the shapes differ.
        alone: the difference when our stage starts from the original's previous stage. None if it was not computed.
        budget_used: the largest fraction of a budget that was used. The stage fails above 1.
        criterion: the bound that was used most, "largest", "mean" or "gain", followed by ", alone" if it belongs to
            `alone`. Empty if nothing differs.
        remark: why the arrays could not be compared.
    """

    stage: str
    difference: Difference | None
    alone: Difference | None
    budget_used: float
    criterion: str = ""
    remark: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the budget."""
        return self.budget_used <= 1


@dataclass(frozen=True)
class Verdict:
    """The verdict on one recording.

    Attributes:
        recording: the file's name. Empty if the model takes no audio.
        text: the text. Empty if the model takes no text.
        rows: one verdict for each stage, in order.
    """

    recording: str
    text: str
    rows: tuple[StageVerdict, ...]

    @property
    def name(self) -> str:
        """The name of the example in a report: the recording and the beginning of the text."""
        quote = f'"{shorten(self.text, 40, placeholder=" ...")}"' if self.text else ""
        return ", ".join(each for each in (self.recording, quote) if each)

    @property
    def first_failure(self) -> StageVerdict | None:
        """The first stage that exceeds its budget, or None."""
        return next((row for row in self.rows if not row.passed), None)

    @property
    def worst(self) -> StageVerdict:
        """The stage that uses the largest fraction of its budget."""
        return max(self.rows, key=lambda row: row.budget_used)


def judge(
    recording: str,
    text: str,
    theirs: Mapping[str, FullActivation] | Mapping[str, SampledActivation],
    ours: Stages,
    alone: Stages,
    precision: str,
) -> Verdict:
    """Compare our stages of one recording with the original's.

    Args:
        recording: the file's name, or "".
        text: the text, or "".
        theirs: the original's stages.
        ours: our stages, computed by the whole network.
        alone: our stages, each computed from the original's previous stage. May be empty or incomplete.
        precision: ours, "float32" or "bfloat16". It selects the budgets.

    Raises:
        InvalidInput: if one side has a stage that the other lacks.
    """
    if missing := [stage for stage in theirs if stage not in ours]:
        raise InvalidInput(
            f"the original has the stage {missing[0]!r} of {recording} and this checkpoint does not, so their "
            "architectures differ; name the checkpoint that was recorded"
        )
    if extra := [stage for stage in ours if stage not in theirs]:
        raise InvalidInput(
            f"this checkpoint has the stage {extra[0]!r} of {recording} and the original does not, so their "
            "architectures differ; name the checkpoint that was recorded"
        )
    rows = []
    for stage, activation in theirs.items():
        if ours[stage].shape != activation.shape:
            remark = f"our shape is {ours[stage].shape}, the original's is {activation.shape}"
            rows.append(StageVerdict(stage, None, None, math.inf, remark=remark))
            continue
        difference = activation.compare(ours[stage])
        difference_alone = activation.compare(alone[stage]) if stage in alone else None
        used, criterion = budget(stage, precision).fraction_used(difference)
        if difference_alone is not None:
            used_alone, criterion_alone = budget(stage, precision, alone=True).fraction_used(difference_alone)
            if used_alone > used:
                used, criterion = used_alone, f"{criterion_alone}, alone"
        rows.append(StageVerdict(stage, difference, difference_alone, used, criterion if used else ""))
    return Verdict(recording, text, tuple(rows))


def worst_rows(verdicts: Sequence[Verdict]) -> list[tuple[StageVerdict, Verdict]]:
    """Return, for each stage, the verdict that uses most of its budget and the recording that it belongs to.

    Args:
        verdicts: verdicts on recordings with the same stages.
    """
    worst = []
    for rows in zip(*(verdict.rows for verdict in verdicts), strict=True):
        index = max(range(len(rows)), key=lambda number: rows[number].budget_used)
        worst.append((rows[index], verdicts[index]))
    return worst
