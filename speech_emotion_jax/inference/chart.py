"""A prediction as bars for the terminal."""

from __future__ import annotations

from .pipeline import Prediction


def render_prediction(prediction: Prediction, width: int = 40) -> str:
    """Render the probabilities as bars, the most probable label first.

    Args:
        prediction: the prediction of one clip.
        width: characters of a bar for a probability of 1.

    Returns:
        One line for each label, below the transcript if there is one.
    """
    scores = sorted(prediction["scores"].items(), key=lambda item: -item[1])
    label_width = max(len(label) for label, _ in scores)
    lines = [f"{label:>{label_width}} {score:6.1%} {'█' * round(score * width)}".rstrip() for label, score in scores]
    if "text" in prediction:
        lines.insert(0, f"«{prediction['text']}»")
    if prediction.get("truncated"):
        lines.append("(cut: only the first 160 s of audio and 512 tokens of text are scored)")
    return "\n".join(lines)


def render_prediction_line(prediction: Prediction) -> str:
    """Render the most probable label, its probability and the transcript if there is one, as one line."""
    text = f"  «{' '.join(prediction['text'].split())}»" if "text" in prediction else ""
    cut = "  (cut)" if prediction.get("truncated") else ""
    return f"{prediction['top_label']} {prediction['top_score']:.1%}{text}{cut}"
