"""Make the corpus of the demo checkpoint: Spanish sentences spoken by espeak-ng, labelled with six emotions.

    python scripts/demo_corpus.py OUT [--clips 1800] [--seed 0]

The corpus is a toy: a machine reads sentences in three manners, and a table assigns an emotion to each. Nobody felt or
acted anything, so a model trained on it says nothing about people.

The label of a clip follows from the theme of the sentence and the delivery together, not from one of them alone:

                forceful    drawn      level
    setback     anger       sadness    -
    vermin      -           disgust    fear
    event       joy         -          neutral

Every theme and every delivery has two possible emotions. So the accuracy of text alone is at most one half. Audio alone
exceeds one half only if it recognises words. The majority rate is one sixth.

The clips come in blocks of six, one for each emotion, all in one voice. A block has three sentences that differ in one
noun, which sets the theme. Each is spoken in both deliveries of its theme. So every sentence occurs equally often with
each of its two labels, and neither the voice nor the rest of the sentence predicts the label. The splits share no voice
and no sentence. They do share the nouns, because a text encoder trained on this corpus cannot know a word that it never
saw.

Features that are normalised over the clip lose its loudness and its spectral tilt. So deliveries differ in what changes
over time: the speaking rate, the pauses between words, the pitch range and the volume from word to word.

The sentences were written for this script. The speech is the output of espeak-ng (https://github.com/espeak-ng), whose
GPL covers the program but not the sound. `render` needs espeak-ng; `design` does not.
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
    """A manner of speaking: a volume contour, and the inclusive ranges from which each clip draws its settings."""

    pitch: tuple[int, int]  # 0 to 99; 50 is the normal pitch of the voice
    pitch_range: tuple[int, int]  # percent of the voice's normal range
    rate: tuple[int, int]  # words a minute
    gap: tuple[int, int]  # pause after a word, in 10 ms at espeak-ng's normal rate
    contour: Literal["stressed", "fading", "even"]


DELIVERIES = {
    "forceful": Delivery(pitch=(45, 75), pitch_range=(140, 200), rate=(155, 185), gap=(0, 2), contour="stressed"),
    "drawn": Delivery(pitch=(25, 55), pitch_range=(40, 90), rate=(120, 145), gap=(3, 7), contour="fading"),
    "level": Delivery(pitch=(35, 65), pitch_range=(0, 30), rate=(205, 240), gap=(0, 0), contour="even"),
}
VOLUMES = (35, 50)  # espeak-ng's default is 100; half of it leaves headroom for stressed words
NOISE_LEVELS = (25, 40)  # signal-to-noise ratio in dB

ACCENTS = ("es", "es-419")
# espeak-ng's variants serve as speakers. Of similar variants (linda and belinda, steph and steph2) only one is used.
VARIANTS = {
    "train": (
        *("f1", "f2", "f4", "Alicia", "aunty", "belinda", "grandma", "anika"),
        *("m1", "m2", "m3", "m6", "Alex", "Denis", "Diogo", "Mario", "Mike", "adam", "marcelo", "ed"),
    ),
    "validation": ("f3", "Annie", "m5", "miguel"),
    "test": ("f5", "Andrea", "steph", "m4", "m8", "victor", "david", "Nguyen"),
}

# A sentence is an opening, a noun and a place: "Ayer supe lo de | las cucarachas | del museo". Only the noun depends on
# the theme. All themes have the same number of nouns of each gender and number, so no article gives the theme away.
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
    """The settings of one clip. `pitch`, `pitch_range`, `rate` and `gap` have the units of `Delivery`."""

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
    noise_level: int  # signal-to-noise ratio in dB
    seed: int  # of the noise and of the random volumes of the words


def design(seed: int, clips: int = 1800) -> list[Clip]:
    """Design the corpus: 3/4 of the clips for training, 1/12 for validation and 1/6 for testing.

    Every split has each of the six labels equally often. The same arguments give the same list.

    Args:
        seed: draws the combinations. It does not change which openings, places and voices belong to a split.
        clips: the number of clips.

    Raises:
        InvalidInput: unless `clips` is a positive multiple of 72 and `seed` is at least 0.
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
    """Return the nouns of a theme with their articles."""
    return [f"{article} {noun}" for article, nouns in NOUNS[theme].items() for noun in nouns.split()]


def sentence(opening: str, noun_phrase: str, place: str) -> str:
    """Join the three parts of a sentence, and contract "de el" to "del"."""
    return f"{opening} {noun_phrase} {place}.".replace(" de el ", " del ")


def shuffled_cycle(rng: np.random.Generator, items: tuple[str, ...] | list[str], length: int) -> list[str]:
    """Return `length` items in rounds, each a new permutation. The counts of two items differ by at most one."""
    rounds = [rng.permutation(items) for _ in range(-(-length // len(items)))]
    return [str(item) for item in np.concatenate(rounds)[:length]]


def render(clip: Clip) -> Float[np.ndarray, " samples"]:
    """Speak a clip with espeak-ng. The same clip gives the same samples.

    Returns:
        float32 samples at 16 kHz, within [-1, 1].

    Raises:
        UnreadableInput: if espeak-ng is not installed or fails.
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
    """Run espeak-ng and return what it prints.

    Raises:
        UnreadableInput: if espeak-ng is not installed or fails.
    """
    try:
        return subprocess.run(["espeak-ng", *arguments], capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise UnreadableInput(
            "espeak-ng is not installed: install it, for instance by apt install espeak-ng."
        ) from None
    except subprocess.CalledProcessError as failure:
        raise UnreadableInput(f"espeak-ng {' '.join(arguments)} failed: {failure.stderr.decode().strip()}") from None


def require_variants() -> None:
    """Check that espeak-ng has all variants. For a missing one it would silently use its default voice.

    Raises:
        UnreadableInput: if a variant is missing.
    """
    installed = re.findall(r"!v/(\S+)", espeak("--voices=variant").decode())
    missing = {variant for variants in VARIANTS.values() for variant in variants}.difference(installed)
    if missing:
        raise UnreadableInput(f"This espeak-ng lacks the voices {', '.join(sorted(missing))}: install version 1.51.")


def ssml(clip: Clip, rng: np.random.Generator) -> str:
    """Return the sentence as SSML, with its pitch range and a volume for each word."""
    words = clip.text.split()
    volumes = clip.volume * contour(clip.delivery, words) * rng.uniform(0.9, 1.1, len(words))
    spoken = (
        f'<prosody volume="{volume:.0f}">{escape(word)}</prosody>' for word, volume in zip(words, volumes, strict=True)
    )
    return f'<prosody range="{clip.pitch_range}%">{" ".join(spoken)}</prosody>'


def contour(delivery: str, words: list[str]) -> Float[np.ndarray, " words"]:
    """Return the volume of each word as a multiple of the clip's volume."""
    match DELIVERIES[delivery].contour:
        case "stressed":  # short words are mostly articles and prepositions
            return np.array([2.0 if len(word) > 4 else 0.6 for word in words])
        case "fading":
            return np.linspace(1.5, 0.4, len(words))
        case "even":
            return np.ones(len(words))


def write(corpus: list[Clip], out: Path) -> None:
    """Render a corpus to OUT/<name>.wav (16 bit), and then write OUT/manifest.csv with the columns of MEACorpus."""
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
    """Make the corpus that the command line asks for, and return the exit code."""
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
