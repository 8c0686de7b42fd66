"""Make the corpus of the demo checkpoint: Spanish sentences spoken by espeak-ng, labelled with six emotions.

    python scripts/demo_corpus.py OUT [--clips 1800] [--seed 0]

This is synthetic speech and a toy: a machine reads sentences in three manners, and a table calls that an emotion.
Nobody felt or acted anything, so a model trained on it says nothing about people.

A clip's label follows from what is said (the theme) and how it is said (the delivery), and from neither alone:

                forceful    drawn      level
    setback     anger       sadness    -
    vermin      -           disgust    fear
    event       joy         -          neutral

Every theme and every delivery leaves two emotions open. Text alone can't pass one half, audio alone passes it only as
far as it recognises words, the majority rule stands at one sixth, and both together decide.

The clips come in blocks of six, one for each emotion, in one voice: three sentences that differ in one noun, which
tells the theme, each spoken in both of the theme's deliveries. So a sentence occurs equally often with its two labels,
and neither the voice nor the rest of the sentence tells anything. No voice and no sentence of one split occurs in
another; the nouns occur in all, for a text encoder trained on this corpus can't know a word it never saw.

Features that are normalised over the clip lose its loudness and its spectral tilt, so deliveries differ in what changes
over time: speaking rate, pauses between words, pitch range, and the course of the volume through the sentence.

The sentences were made up for this script. The speech is the output of espeak-ng (https://github.com/espeak-ng), whose
GPL covers the program and not the sound it makes. espeak-ng has to be installed to render, not to design.
"""

import argparse
import csv
import io
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
import soundfile
import soxr
from jaxtyping import Float
from rich.console import Console
from rich.progress import track

from speech_emotion_jax.errors import InvalidInput, UnreadableInput

SAMPLE_RATE = 16_000

LABEL_OF = {
    ("setback", "forceful"): "anger",
    ("setback", "drawn"): "sadness",
    ("vermin", "drawn"): "disgust",
    ("vermin", "level"): "fear",
    ("event", "forceful"): "joy",
    ("event", "level"): "neutral",
}


@dataclass(frozen=True)
class Delivery:
    """A manner of speaking: the inclusive ranges, in espeak-ng's units, from which each clip draws, and a contour."""

    pitch: tuple[int, int]  # 0 to 99, 50 is the voice's own
    pitch_range: tuple[int, int]  # percent of the voice's own
    rate: tuple[int, int]  # words a minute
    gap: tuple[int, int]  # pause after a word, in 10 ms at espeak-ng's normal rate
    contour: Literal["stressed", "fading", "even"]


DELIVERIES = {
    "forceful": Delivery(pitch=(45, 75), pitch_range=(140, 200), rate=(155, 185), gap=(0, 2), contour="stressed"),
    "drawn": Delivery(pitch=(25, 55), pitch_range=(40, 90), rate=(120, 145), gap=(3, 7), contour="fading"),
    "level": Delivery(pitch=(35, 65), pitch_range=(0, 30), rate=(205, 240), gap=(0, 0), contour="even"),
}
VOLUMES = (35, 50)  # espeak-ng's normal is 100; half of it leaves room for the stressed words
NOISE_LEVELS = (25, 40)  # speech over white noise in dB

ACCENTS = ("es", "es-419")
# espeak-ng's variants stand for speakers. Of near twins (linda and belinda, steph and steph2) one at most is here.
VARIANTS = {
    "train": (
        *("f1", "f2", "f4", "Alicia", "aunty", "belinda", "grandma", "anika"),
        *("m1", "m2", "m3", "m6", "Alex", "Denis", "Diogo", "Mario", "Mike", "adam", "marcelo", "ed"),
    ),
    "validation": ("f3", "Annie", "m5", "miguel"),
    "test": ("f5", "Andrea", "steph", "m4", "m8", "victor", "david", "Nguyen"),
}

# A sentence is an opening, a noun and a place: "Ayer supe lo de | las cucarachas | del museo". Only the noun belongs to
# a theme, and each theme has as many nouns of every gender and number, so the theme is heard in one word at most.
OPENINGS = {
    "train": (
        *("Acaban de contarme lo de", "Aquí todos hablan de", "Te llamo por lo de", "Ayer supe lo de"),
        *("Esta noche he soñado con", "Mi madre me ha preguntado por", "Llevo un rato pensando en", "Ya conoces lo de"),
        *(
            "Tengo que contarte lo de",
            "Todo el mundo sabe lo de",
            "Mi hermana me escribe sobre",
            "Nos han vuelto a hablar de",
        ),
    ),
    "validation": ("Mis primos no saben nada de", "Me han llamado por lo de", "Luis lleva días soñando con"),
    "test": (
        *("En la radio han hablado de", "Mi padre sigue pensando en", "Esta mañana nos contaron lo de"),
        *("Te escribo por lo de", "Nadie me ha dicho nada de"),
    ),
}
PLACES = {
    "train": (
        *(
            "del colegio",
            "de la oficina",
            "de mi calle",
            "del hotel",
            "de la universidad",
            "de mi edificio",
            "del museo",
        ),
        *("de la plaza", "de mi pueblo", "de la biblioteca", "de tu barrio", "de la estación", "del mercado"),
    ),
    "validation": ("del instituto", "de la fábrica", "de mi portal"),
    "test": ("del teatro", "de la escuela", "del restaurante", "de la residencia", "de aquel parque"),
}
NOUNS = {
    "setback": {
        "el": "despido robo engaño fracaso abandono rechazo desahucio embargo",
        "la": "multa deuda mentira traición estafa derrota ruina quiebra",
        "los": "insultos recortes suspensos reproches abusos impagos timos desprecios",
        "las": "burlas injusticias humillaciones pérdidas calumnias trampas ofensas expulsiones",
    },
    "vermin": {
        "el": "moho veneno vómito cadáver escorpión contagio virus murciélago",
        "la": "rata serpiente sangre plaga peste tarántula infección víbora",
        "los": "ratones gusanos piojos bichos parásitos excrementos sapos huesos",
        "las": "cucarachas arañas sanguijuelas chinches pulgas moscas larvas babosas",
    },
    "event": {
        "el": "viaje concierto bautizo cumpleaños baile desfile torneo estreno",
        "la": "boda fiesta cena excursión merienda visita feria graduación",
        "los": "regalos premios juegos invitados novios músicos dulces bailarines",
        "las": "vacaciones entradas flores canciones tartas invitaciones compras clases",
    },
}


@dataclass(frozen=True)
class Clip:
    """One clip to be spoken; `pitch`, `pitch_range`, `rate`, `volume` and `gap` are in the units of `Delivery`."""

    name: str
    text: str
    label: str
    split: str  # train, validation or test
    voice: str  # accent+variant, as espeak-ng's -v takes it
    theme: str
    delivery: str
    pitch: int
    pitch_range: int
    rate: int
    volume: int
    gap: int
    noise_level: int  # speech over noise in dB
    seed: int  # of the noise and of the words' small differences in volume


def design(seed: int, clips: int = 1800) -> list[Clip]:
    """The corpus on paper: of the clips 3/4 train, 1/12 validation, 1/6 test, the six labels equally often in each.

    The same arguments give the same list. The seed changes what is combined, never which openings, places and voices
    belong to a split. Raises InvalidInput unless `clips` is a multiple of 72 and `seed` at least 0.
    """
    if clips <= 0 or clips % 72:
        raise InvalidInput(f"A corpus of {clips} clips can't be balanced: ask for a multiple of 72, such as 1800.")
    if seed < 0:
        raise InvalidInput(f"The seed {seed} is negative: give 0 or more.")
    rng = np.random.default_rng(seed)

    def draw(bounds: tuple[int, int]) -> int:
        return int(rng.integers(*bounds, endpoint=True))

    corpus = []
    for split, share in (("train", 9), ("validation", 1), ("test", 2)):  # twelfths
        blocks = clips // 72 * share
        voices = shuffled_cycle(rng, VARIANTS[split], blocks)
        openings = shuffled_cycle(rng, OPENINGS[split], blocks)
        places = shuffled_cycle(rng, PLACES[split], blocks)
        nouns = {theme: shuffled_cycle(rng, noun_phrases(theme), blocks) for theme in NOUNS}
        for block in range(blocks):
            voice = f"{rng.choice(ACCENTS)}+{voices[block]}"
            for (theme, delivery), label in LABEL_OF.items():
                manner = DELIVERIES[delivery]
                corpus.append(
                    Clip(
                        name=f"{split}-{len(corpus):05d}",
                        text=sentence(openings[block], nouns[theme][block], places[block]),
                        label=label,
                        split=split,
                        voice=voice,
                        theme=theme,
                        delivery=delivery,
                        pitch=draw(manner.pitch),
                        pitch_range=draw(manner.pitch_range),
                        rate=draw(manner.rate),
                        volume=draw(VOLUMES),
                        gap=draw(manner.gap),
                        noise_level=draw(NOISE_LEVELS),
                        seed=draw((0, 2**32 - 1)),
                    )
                )
    return corpus


def noun_phrases(theme: str) -> list[str]:
    """The theme's nouns with their articles."""
    return [f"{article} {noun}" for article, nouns in NOUNS[theme].items() for noun in nouns.split()]


def sentence(opening: str, noun_phrase: str, place: str) -> str:
    """The three put together, with Spanish's contraction of "de el"."""
    return f"{opening} {noun_phrase} {place}.".replace(" de el ", " del ")


def shuffled_cycle(rng: np.random.Generator, items: tuple[str, ...] | list[str], length: int) -> list[str]:
    """`length` items, each as often as the others give or take one, in a new order every round."""
    rounds = [rng.permutation(items) for _ in range(-(-length // len(items)))]
    return [str(item) for item in np.concatenate(rounds)[:length]]


def render(clip: Clip) -> Float[np.ndarray, " samples"]:
    """Speak a clip with espeak-ng: float32 at 16 kHz, within [-1, 1]. The same clip gives the same samples.

    Raises UnreadableInput if espeak-ng isn't installed or refuses.
    """
    rng = np.random.default_rng(clip.seed)
    manner = ("-v", clip.voice, "-p", str(clip.pitch), "-s", str(clip.rate), "-g", str(clip.gap))
    spoken = espeak("--stdout", *manner, "-m", ssml(clip, rng))
    speech, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    speech = soxr.resample(speech, rate, SAMPLE_RATE)
    noise = rng.standard_normal(len(speech), dtype=np.float32)
    noise *= speech.std() * 10 ** (-clip.noise_level / 20)
    return np.clip(speech + noise, -1, 1)


def espeak(*arguments: str) -> bytes:
    """What espeak-ng prints. Raises UnreadableInput if it isn't installed or refuses."""
    try:
        return subprocess.run(["espeak-ng", *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UnreadableInput(
            "espeak-ng is not installed: install it, for instance by apt install espeak-ng."
        ) from None
    except subprocess.CalledProcessError as failure:
        raise UnreadableInput(f"espeak-ng {' '.join(arguments)} failed: {failure.stderr.decode().strip()}") from None


def require_variants() -> None:
    """Raise UnreadableInput where a voice is absent: espeak-ng would speak in its plain voice and say nothing of it."""
    present = re.findall(r"!v/(\S+)", espeak("--voices=variant").decode())
    absent = {variant for variants in VARIANTS.values() for variant in variants}.difference(present)
    if absent:
        raise UnreadableInput(f"This espeak-ng lacks the voices {', '.join(sorted(absent))}: install version 1.51.")


def ssml(clip: Clip, rng: np.random.Generator) -> str:
    """The sentence with its pitch range and a volume for each word."""
    words = clip.text.split()
    volumes = clip.volume * contour(clip.delivery, words) * rng.uniform(0.9, 1.1, len(words))
    spoken = (
        f'<prosody volume="{volume:.0f}">{escape(word)}</prosody>' for word, volume in zip(words, volumes, strict=True)
    )
    return f'<prosody range="{clip.pitch_range}%">{" ".join(spoken)}</prosody>'


def contour(delivery: str, words: list[str]) -> Float[np.ndarray, " words"]:
    """Each word's volume as a multiple of the clip's."""
    match DELIVERIES[delivery].contour:
        case "stressed":  # the short words are mostly articles and prepositions
            return np.array([2.0 if len(word) > 4 else 0.6 for word in words])
        case "fading":
            return np.linspace(1.5, 0.4, len(words))
        case "even":
            return np.ones(len(words))


def write(corpus: list[Clip], out: Path) -> None:
    """Render a corpus to OUT/<name>.wav (16 bit) and, when all are there, OUT/manifest.csv in MEACorpus's columns."""
    require_variants()
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / "manifest.csv"
    manifest.unlink(missing_ok=True)  # an interrupted run must not leave an old manifest beside new clips

    def speak(clip: Clip) -> None:
        soundfile.write(out / f"{clip.name}.wav", render(clip), SAMPLE_RATE, subtype="PCM_16")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        spoken = pool.map(speak, corpus)
        for _ in track(spoken, "Speaking", total=len(corpus), console=Console(stderr=True)):
            pass
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "label", "transcription", "split", "voice"))
        rows.writerows((f"{clip.name}.wav", clip.label, clip.text, clip.split, clip.voice) for clip in corpus)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the synthetic Spanish corpus of the demo checkpoint.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the clips and manifest.csv")
    parser.add_argument("--clips", type=int, default=1800, help="how many, a multiple of 72 (default: 1800)")
    parser.add_argument("--seed", type=int, default=0, help="draws pairings, voices and deliveries (default: 0)")
    options = parser.parse_args(arguments)
    try:
        write(design(options.seed, options.clips), options.out)
    except (InvalidInput, OSError) as error:
        print(f"demo_corpus: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
