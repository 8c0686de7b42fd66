"""The words of the page, in English and Spanish."""

from __future__ import annotations

WORDS = {
    "en": {
        "title": "Timeline",
        "toy": "This model is a toy, trained on synthetic speech. It says nothing about people.",
        "notice": "About this model",
        "empty": "Nobody speaks in this recording: its timeline is empty.",
        "strip": "Position",
        "zoom_in": "Zoom in",
        "zoom_out": "Zoom out",
        "labels": "Emotions",
        "speakers": "Speakers",
        "nobody": "Unnamed",
        "units": "Parts",
        "play": "Play from",
        "of": "of",
        "shown": "parts are shown",
        "summary": "Summary by speaker",
        "speaker": "Speaker",
        "time": "Time",
        "unscored_count": "Not scored",
        "share": "Share of the scored time by most probable emotion",
        "too short": "too short to score",
        "silence": "silence",
        "no text": "no words understood",
        "truncated": "only the beginning was scored",
        "settings": "How this was made",
        "waveform": "Waveform",
        "lane": "Probabilities over time",
        "sound": "Sound of",
        "linked": "The sound is linked and not part of this page. Keep the recording where it is.",
        "caution": "A probability is a softmax. It is not the strength of an emotion, and what a voice sounds like is "
        "not what a person feels. Do not use this page to decide about individuals.",
    },
    "es": {
        "title": "Cronología",
        "toy": "Este modelo es un juguete, entrenado con voz sintética. No dice nada sobre las personas.",
        "notice": "Sobre este modelo",
        "empty": "Nadie habla en esta grabación: su cronología está vacía.",
        "strip": "Posición",
        "zoom_in": "Ampliar",
        "zoom_out": "Reducir",
        "labels": "Emociones",
        "speakers": "Hablantes",
        "nobody": "Sin nombre",
        "units": "Fragmentos",
        "play": "Reproducir desde",
        "of": "de",
        "shown": "fragmentos a la vista",
        "summary": "Resumen por hablante",
        "speaker": "Hablante",
        "time": "Tiempo",
        "unscored_count": "Sin puntuar",
        "share": "Parte del tiempo puntuado según la emoción más probable",
        "too short": "demasiado corto para puntuarlo",
        "silence": "silencio",
        "no text": "no se entendió ninguna palabra",
        "truncated": "solo se puntuó el comienzo",
        "settings": "Cómo se hizo",
        "waveform": "Forma de onda",
        "lane": "Probabilidades a lo largo del tiempo",
        "sound": "Sonido de",
        "linked": "El sonido está enlazado y no forma parte de esta página. Deje la grabación donde está.",
        "caution": "Una probabilidad es un softmax. No es la intensidad de una emoción, y cómo suena una voz no es lo "
        "que siente una persona. No use esta página para decidir sobre nadie.",
    },
}
LABELS = {
    "es": {
        "anger": "ira",
        "disgust": "asco",
        "fear": "miedo",
        "joy": "alegría",
        "neutral": "neutral",
        "sadness": "tristeza",
        "surprise": "sorpresa",
    },
    "en": {},
}
# Okabe and Ito's palette, which colour-blind readers can tell apart, as far as labels are known by name.
COLOURS = {
    "anger": "#d55e00",
    "disgust": "#009e73",
    "fear": "#cc79a7",
    "joy": "#e6b800",
    "neutral": "#8a929a",
    "sadness": "#0072b2",
    "surprise": "#56b4e9",
}
OTHER_COLOURS = ("#d55e00", "#0072b2", "#e6b800", "#009e73", "#cc79a7", "#56b4e9", "#8a929a", "#8b5a2b", "#6a4fb3")
SAME = {"angry": "anger", "happy": "joy", "sad": "sadness"}  # names of the English checkpoints


def label_name(label: str, language: str) -> str:
    """Return the name of a label on the page."""
    return LABELS[language].get(SAME.get(label, label), label)


def label_colours(labels: list[str]) -> list[str]:
    """Return a colour for each label: its own if all labels are known, else one after another."""
    own = [COLOURS.get(SAME.get(label, label)) for label in labels]
    if None not in own and len(set(own)) == len(own):
        return [colour for colour in own if colour is not None]
    return [OTHER_COLOURS[index % len(OTHER_COLOURS)] for index in range(len(labels))]
