"""A timeline that was made by hand."""

from speech_emotion_jax.timeline import Timeline, TimelineUnit


def made_unit(start: float, end: float, speaker: str | None = None, **more) -> TimelineUnit:
    values = {"recording": "in/my call.wav", "channel": None, "text": None, "language": None, "unscored": None} | {
        "probabilities": {"joy": 0.75, "fear": 0.25},
        "top_label": "joy",
        "no_speech_probability": None,
        "truncated": False,
    }
    return TimelineUnit(start=start, end=end, speaker=speaker, **(values | more))


SPOKEN = Timeline(
    recordings=["in/my call.wav"],
    labels=["joy", "fear"],
    units=[
        made_unit(0.0, 1.5, "Ana", text="¡Hola, \"tú\" <&>!"),
        made_unit(1.5, 1.51, "Luis", probabilities=None, top_label=None, unscored="too short"),
        made_unit(2.0, 3.25, "Luis", text="Sí", language="es", no_speech_probability=0.125),
    ],
    settings={"mode": "audio"},
    notice="a toy",
)  # fmt: skip
