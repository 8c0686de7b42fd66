"""Format an audit for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.console import align_columns
from .leakage import Audit, SubsetScores

MIN_EFFECTIVE_GROUPS = 10.0  # a label from fewer effective groups is flagged


def render_audit(result: Audit) -> str:
    """Format an audit for a terminal."""
    lines = [f"{result.name}: {result.clips:,} clips in {result.groups:,} groups by {result.group_by}"]
    if result.rule is None:
        lines += ["", "There are no splits, so no group can be in two of them."]
    for shared in result.shared:
        (first, second), clips, of_clips = shared.splits, shared.clips, shared.of_clips
        lines += [
            "",
            f"{shared.groups:,} of {shared.of_groups[1]:,} {second} groups are also in {first}"
            f" ({format_percent(shared.groups, shared.of_groups[1])})",
            f"{clips[1]:,} of {of_clips[1]:,} {second} clips are in these groups"
            f" ({format_percent(clips[1], of_clips[1])}),"
            f" and {clips[0]:,} of {of_clips[0]:,} {first} clips ({format_percent(clips[0], of_clips[0])})",
        ]
    if result.rule is not None:
        lines += [
            "",
            f"Baseline rule (the most frequent training label of the clip's group, else {result.fallback}):",
            *_scores_lines({"rule": result.rule}),
        ]
    if result.beside is not None:
        lines += [
            "",
            f"{result.beside.run} and the baseline rule, on the test clips that the run scored:",
            *_scores_lines({"model": result.beside.model, "rule": result.beside.rule}),
        ]
    lines += [
        "",
        "Labels and source",
        f"{result.pure:,} of {result.repeated:,} groups of two or more clips have a single label"
        f" ({format_percent(result.pure, result.repeated)}; {format_percent(result.pure_by_chance, result.repeated)}"
        " expected if labels were"
        " assigned at random)",
        f"{100 * max(result.told, 0):.1f} % of the information about the label is in the group, beyond chance"
        " (adjusted mutual information / entropy of the labels)",
        "",
        *align_columns(
            [
                ("label", "clips", "groups", "in the largest", "even groups", ""),
                *(
                    (
                        source.label,
                        f"{source.clips:,}",
                        f"{source.groups:,}",
                        format_percent(source.largest, source.clips),
                        f"{source.effective:.1f}",
                        "FEW: scores of this label depend on few sources"
                        if source.effective < MIN_EFFECTIVE_GROUPS
                        else "",
                    )
                    for source in result.sources
                ),
            ]
        ),
        "(even groups: the number of groups of equal size that would be as varied)",
    ]
    return "\n".join(lines)


def _scores_lines(by_name: Mapping[str, Mapping[str, SubsetScores]]) -> list[str]:
    """Format the scores of several predictors as a table, one row per subset of the test clips."""
    rows = [("test clips", "", *(f"{name} {what}" for name in by_name for what in ("accuracy", "macro-F1")))]
    titles = {"all": "all", "shared": "of groups in training", "unshared": "of other groups"}
    for key, title in titles.items():
        if any(key in scores for scores in by_name.values()):
            found = [scores[key] for scores in by_name.values()]
            values = [text for each in found for text in (f"{100 * each.accuracy:.1f} %", f"{100 * each.macro_f1:.1f}")]
            rows.append((title, f"{found[0].clips:,}", *values))
    return align_columns(rows)


def format_percent(part: float | int, whole: int) -> str:
    """Format part / whole as a percentage; "none" if the whole is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "none"
