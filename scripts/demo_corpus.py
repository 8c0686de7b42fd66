"""Make the corpus of the demo checkpoint: Spanish sentences spoken by espeak-ng, labelled with six emotions.

    python scripts/demo_corpus.py OUT [--clips 1800] [--seed 0]

This is synthetic speech and a toy: a machine reads sentences in three manners, and a table calls that an emotion.
Nobody felt or acted anything, so a model trained on it says nothing about people.

A clip's label follows from what is said (the theme) and how it is said (the delivery), and from neither alone:

                forceful    drawn      level
    setback     anger       sadness    -
    vermin      -           disgust    fear
    plans       joy         -          neutral

Every theme and every delivery leaves two emotions open, so text alone and audio alone stop at one half, the majority
rule at one sixth, and both together decide. The clips come in blocks of six, one for each emotion: a sentence of each
theme in both of its deliveries, all in one voice. So each sentence occurs equally often with its two labels, and
the voice tells nothing. No sentence and no voice of one split occurs in another.

Features that are normalised over the clip lose its loudness and its spectral tilt, so deliveries differ in what changes
over time: speaking rate, pauses between words, pitch range, and the course of the volume through the sentence.

The sentences were written for this script. The speech is the output of espeak-ng (https://github.com/espeak-ng), whose
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

from speech_emotion_jax.errors import InvalidInput, SpeechEmotionError, UnreadableInput

SAMPLE_RATE = 16_000

LABEL_OF = {
    ("setback", "forceful"): "anger",
    ("setback", "drawn"): "sadness",
    ("vermin", "drawn"): "disgust",
    ("vermin", "level"): "fear",
    ("plans", "forceful"): "joy",
    ("plans", "level"): "neutral",
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

# Every sentence follows one of these, so that how a clip begins tells no theme by its sound.
OPENINGS = (
    *("La verdad es que", "Lo cierto es que", "El caso es que", "Resulta que"),
    *("Te digo que", "Ya ves que", "Ya te dije que", "Como te decía,"),
)

SENTENCES = {
    "setback": {
        "test": """
            Me han echado del trabajo después de diez años. Se ha roto la promesa que me habían hecho. Han
            cerrado el hospital y nadie avisó. Me han dejado solo con todas las deudas. Otra vez me han
            dejado sin trabajo. Mi hermano me ha mentido durante todo este tiempo. El jefe me ha quitado
            todas las vacaciones. Han perdido mi maleta con todos los recuerdos. El jefe me ha echado
            delante de todos. Nadie me ha llamado en todo este tiempo. Han talado todos los árboles de la
            plaza. Han cerrado la fábrica sin ninguna explicación. Me han robado el coche delante de casa.
            Han vendido la casa de mi padre sin avisarme. Me han robado la bicicleta de mi hijo.
        """,
        "validation": """
            Mi padre se ha marchado sin decirme nada. Mi hijo me ha mentido sobre el dinero. Mi hija ha
            suspendido por culpa del profesor. Me habían prometido el puesto y se han olvidado. He
            suspendido otra vez el último examen. Me han robado las joyas de mi madre.
        """,
        "train": """
            Han dejado morir a mi perro por un error. Han robado todo lo que teníamos en el coche. Mi propio
            hermano me ha engañado con el dinero. Nadie me avisó de que habían vendido la casa. El jefe ha
            rechazado otra vez mi proyecto. El médico me ha mentido durante meses. Mi amiga se ha marchado
            sin decirme nada. Me han quitado la beca por culpa de un error. Nadie ha venido a verme al
            hospital. El banco ha rechazado otra vez mi solicitud. Mi mejor amiga me ha mentido otra vez.
            Nadie me ha dado ninguna explicación. Se ha marchado con todo nuestro dinero. Se ha perdido todo
            el trabajo de un año. No me han invitado a la boda de mi hermana. He perdido todo el dinero que
            tenía ahorrado. El banco se ha quedado con nuestra casa. Nadie ha llamado para pedirme perdón.
            Me han engañado y he perdido todos mis ahorros. Mi mejor amigo se ha olvidado de mí. No me han
            pagado el sueldo este mes. Hemos perdido la casa por culpa del banco. Me ha dejado sin darme
            ninguna explicación. Hemos perdido el partido en el último minuto. Han roto la promesa que nos
            hicieron. Nadie ha pedido perdón a mi familia. Han despedido a mi padre sin ninguna explicación.
            He perdido el trabajo por culpa de un error. Han rechazado un proyecto de muchos años. He
            perdido a mi mejor amigo por una mentira. Han roto el cuadro que pintó mi padre. Han talado el
            árbol que plantó mi madre. Mi marido me ha dejado por otra persona. Me han mentido durante todos
            estos años. Mi marido ha perdido otra vez el trabajo. Han despedido a mi hermana sin avisar. Han
            cerrado para siempre la escuela del pueblo. Me han quitado el puesto que me habían prometido. Se
            han reído de mi hija delante de todos. No me han dejado despedirme de mi padre. Por un error del
            médico hemos perdido tres meses. Todo mi trabajo ha acabado en la basura. Nadie me ha pedido
            perdón por lo ocurrido. Se ha roto el único recuerdo de mi madre. No me han dejado hablar con mi
            hijo. Nadie ha querido escuchar mi explicación. Otra vez hemos perdido por un solo gol. Se han
            perdido para siempre todas mis fotos. Otra vez se han olvidado de mí. Se han olvidado otra vez
            de mi cumpleaños. Se ha marchado sin despedirse de nadie.
        """,
    },
    "vermin": {
        "test": """
            Hay una rata muerta debajo de la cama. Algo muerto huele debajo del suelo. Hay una serpiente
            viva dentro de la tubería. El agua está llena de bichos negros. Las ratas han mordido la carne
            de la cocina. La herida está llena de gusanos. Hay ratas muertas dentro del pozo. Hay un
            murciélago muerto debajo de la cama. Se oyen ratas dentro de la pared. Me ha caído un gusano en
            el pelo. Hay sangre en la bolsa de la comida. He pisado una serpiente muerta en el barro. Un
            bicho enorme se arrastra por el suelo. Algo se arrastra por la tubería del baño. Sale sangre por
            debajo de la puerta.
        """,
        "validation": """
            La herida está cubierta de moscas negras. El agua del pozo está llena de sangre. Tengo una araña
            peluda en el cuello. El perro tiene espuma y sangre en la boca. Tengo una cucaracha dentro de la
            manga. El agua huele a podrido y está negra.
        """,
        "train": """
            Un enfermo me ha escupido sangre en la cara. El suelo del sótano está lleno de sangre. El moho
            negro cubre toda la pared. Algo viscoso se mueve debajo de la alfombra. La rata muerta está
            llena de gusanos. Un líquido viscoso baja por el techo. Ha caído veneno para ratas en la comida.
            Una cucaracha enorme sube por mi pierna. Un murciélago se me ha enredado en el pelo. Las
            cucarachas salen por el desagüe del baño. Hay gusanos vivos dentro de la carne. Las arañas bajan
            por la pared del baño. Las llagas de la piel ya huelen mal. Un olor a podrido sale del sótano.
            Algo vivo se mueve dentro de la bolsa de basura. El sótano está lleno de ratas muertas. Hay
            cucarachas del tamaño de un dedo. Sale un olor a carne podrida del armario. Una nube de moscas
            sale del armario. Tengo bichos vivos dentro de la herida. Tengo las piernas cubiertas de
            sanguijuelas. Los murciélagos salen de la pared del sótano. He tragado un bicho con el agua. Una
            araña peluda baja por el techo. Los murciélagos muertos cubren el suelo del desván. El armario
            está lleno de bichos peludos. Hay una rata enorme dentro del armario. Una rata acaba de pasar
            entre mis pies. Las cucarachas suben por la pared de la cocina. El techo del sótano está
            cubierto de moho negro. Hay una serpiente enrollada en la ducha. La carne podrida está cubierta
            de moscas. Hay bichos dentro del vaso de agua. Algo peludo me ha tocado la pierna. El suelo del
            baño está cubierto de gusanos. Hay una araña negra debajo de la almohada. He tocado algo viscoso
            en la oscuridad. El perro ha metido un animal muerto en la cama. Una rata me ha mordido en el
            cuello. El perro tiene la piel llena de llagas. El enfermo tiene la piel cubierta de llagas. El
            moho ya sube por las patas de la cama. Algo se mueve dentro de la pared. Una serpiente viscosa
            se arrastra por el barro. Una sanguijuela me sube por la pierna. El pozo huele a animal muerto.
            El techo está cubierto de arañas negras. Hay un dedo dentro de la bolsa de basura. La herida
            huele mal y sale sangre negra. Sale un líquido negro por el grifo. Hay algo podrido en el fondo
            del pozo.
        """,
    },
    "plans": {
        "test": """
            Mañana llega mi hermana en el tren de las diez. El domingo por la tarde jugamos con los niños.
            Tenemos entradas de cine para esta tarde. Mi nieta cumple hoy cinco años. La cena de los vecinos
            es el sábado. El próximo lunes nos dan las llaves del piso nuevo. Mañana vienen los abuelos a
            comer en casa. Hoy empieza el verano y vamos a la playa. El sábado comemos en casa de los
            abuelos. El avión de mi hijo llega mañana temprano. En mayo vamos de vacaciones al campo. He
            preparado una tarta para la merienda. Mi nieta empieza el colegio en septiembre. Ya tenemos los
            billetes para el viaje a Roma. La boda de mi prima es el próximo sábado.
        """,
        "validation": """
            El concierto del coro es el próximo viernes. La próxima semana salimos de viaje a Chile. Este
            verano pasamos dos semanas en la playa. Mi hija entra en la universidad en septiembre. Las
            vacaciones de verano empiezan el viernes. Mi prima llega mañana en el avión de las cinco.
        """,
        "train": """
            Mi hija canta el domingo en el coro. Esta noche cenamos con los vecinos nuevos. Esta tarde vamos
            al cine con la abuela. Este domingo vamos al campo con los amigos. Mi hermana llega de Sevilla
            el viernes. Mis vecinos se casan el sábado en la catedral. Mañana hace sol y comemos en el
            jardín. El próximo domingo celebramos la fiesta del pueblo. El tren de Sevilla llega a las
            cinco. El viernes salimos temprano hacia la playa. El lunes empiezo en la nueva oficina. Esta
            noche cenamos en casa de mi prima. Ya ha salido el sol y vamos al parque. Las flores del jardín
            se abren esta semana. El perro de mi prima ha tenido cuatro cachorros. Esta noche hay un
            concierto en la plaza. Tenemos dos entradas para el concierto del viernes. Hoy nos dan las
            llaves de la nueva oficina. Mañana por la tarde jugamos en el parque. Los amigos vienen a cenar
            esta noche. Los vecinos han organizado una fiesta en la plaza. Mañana empieza el curso en la
            universidad. Hoy celebramos el cumpleaños de la abuela. Mi hijo empieza el colegio la próxima
            semana. Los amigos de Sevilla llegan esta noche. Esta tarde llega el tren de los abuelos. Mi
            hermana viene mañana a comer con los niños. Los niños vienen a merendar el sábado. Mañana
            salimos de vacaciones con los niños. Este verano viajamos en tren a Granada. Ya está preparada
            la mesa para la cena. La fiesta del pueblo empieza mañana por la noche. Hoy cumplo cuarenta años
            y cenamos en casa. Hoy comemos tarta de manzana con la abuela. Mi hijo ha preparado la merienda
            para los amigos. El sábado celebramos el cumpleaños de mi nieta. La abuela ha preparado la cena
            para todos. Hoy ha llegado la carta de la universidad. La mesa del jardín ya está preparada. Las
            clases de piano empiezan el lunes. El coro canta esta noche en la catedral. Esta tarde plantamos
            flores en el jardín. El domingo vamos a la playa con los abuelos. La tarta de manzana ya está en
            el horno. Mi hijo vuelve hoy de su viaje a Chile. Hoy ha llegado un paquete de los abuelos. La
            próxima semana nace mi primera nieta. El nuevo libro de mi prima sale en mayo. Ya tenemos las
            llaves de la casa nueva. Mi prima se casa en mayo en Granada. El viaje a Roma empieza el próximo
            lunes.
        """,
    },
}


@dataclass(frozen=True)
class Clip:
    """One clip to be spoken; `pitch`, `pitch_range`, `rate`, `volume` and `gap` are in the units of `Delivery`."""

    name: str
    text: str
    label: str
    split: Literal["train", "validation", "test"]
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


def sentences(theme: str, split: str) -> list[str]:
    """The sentences of a theme that occur in this split and in no other."""
    return [" ".join(sentence.split()) for sentence in re.findall(r"[^.]+\.", SENTENCES[theme][split])]


def design(seed: int, clips: int = 1800) -> list[Clip]:
    """The corpus on paper: 3/4 of the clips train, 1/12 validation, 1/6 test, every split with its six labels balanced.

    The same seed and number give the same list; the seed changes pairings, voices and deliveries, never the
    sentences and voices that belong to a split. Raises InvalidInput unless `clips` is a multiple of 72.
    """
    if clips <= 0 or clips % 72:
        raise InvalidInput(f"A corpus of {clips} clips can't be balanced: ask for a multiple of 72, such as 1800.")
    rng = np.random.default_rng(seed)

    def draw(bounds: tuple[int, int]) -> int:
        return int(rng.integers(*bounds, endpoint=True))

    corpus = []
    for split, share in (("train", 9), ("validation", 1), ("test", 2)):  # twelfths
        blocks = clips // 72 * share
        voices = shuffled_cycle(rng, VARIANTS[split], blocks)
        texts = {
            theme: [opened(sentence, rng) for sentence in shuffled_cycle(rng, sentences(theme, split), blocks)]
            for theme in SENTENCES
        }
        for block in range(blocks):
            voice = f"{rng.choice(ACCENTS)}+{voices[block]}"
            for (theme, delivery), label in LABEL_OF.items():
                manner = DELIVERIES[delivery]
                corpus.append(
                    Clip(
                        name=f"{split}-{len(corpus):05d}",
                        text=texts[theme][block],
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


def opened(sentence: str, rng: np.random.Generator) -> str:
    """The sentence after an opening drawn at random."""
    return f"{rng.choice(OPENINGS)} {sentence[0].lower()}{sentence[1:]}"


def shuffled_cycle(rng: np.random.Generator, items: tuple[str, ...] | list[str], length: int) -> list[str]:
    """`length` items, each as often as the others give or take one, in a new order every round."""
    rounds = [rng.permutation(items) for _ in range(-(-length // len(items)))]
    return [str(item) for item in np.concatenate(rounds)[:length]]


def render(clip: Clip) -> Float[np.ndarray, " samples"]:
    """Speak a clip with espeak-ng: float32 at 16 kHz, within [-1, 1]. The same clip gives the same samples.

    Raises UnreadableInput if espeak-ng isn't installed or doesn't know the voice.
    """
    rng = np.random.default_rng(clip.seed)
    command = ["espeak-ng", "--stdout", "-m", "-v", clip.voice]
    command += ["-p", str(clip.pitch), "-s", str(clip.rate), "-g", str(clip.gap), ssml(clip, rng)]
    try:
        spoken = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        raise UnreadableInput(
            "espeak-ng is not installed: install it (apt install espeak-ng) to speak the clips."
        ) from None
    except subprocess.CalledProcessError as failure:
        raise UnreadableInput(f"espeak-ng can't speak with the voice {clip.voice}: {failure.stderr.decode()}") from None
    speech, rate = soundfile.read(io.BytesIO(spoken.stdout), dtype="float32")
    speech = soxr.resample(speech, rate, SAMPLE_RATE)
    noise = rng.standard_normal(len(speech), dtype=np.float32)
    noise *= speech.std() * 10 ** (-clip.noise_level / 20)
    return np.clip(speech + noise, -1, 1)


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
    except SpeechEmotionError as error:
        print(f"demo_corpus: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
