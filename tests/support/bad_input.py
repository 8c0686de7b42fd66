"""Input that has to be refused, and how: shared by the tests of `predict_emotion` and of the command line."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 16_000

# Good input by mode, for a working directory made by `furnish`.
AUDIO = {"mode": "audio", "model_id": "audio-es", "audio_path": "speech.wav"}
TEXT = {"mode": "text", "model_id": "text-es", "text": "¡Qué alegría, mañana es fiesta!"}
CONCAT = {"mode": "concat", "model_id": "concat-es", "text_encoder_id": "text_encoder-es"} | {
    "audio_path": "speech.wav",
    "text": "estoy muy triste hoy",
}


class Case(NamedTuple):
    """Arguments of predict_emotion, and words of the sentence that refuses them: the input's name, the remedy."""

    arguments: Mapping[str, str | tuple[str, ...]]
    named: str
    remedy: str


def without(arguments: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in arguments.items() if key != name}


CASES = {
    "missing file": Case(AUDIO | {"audio_path": "missing.wav"}, "missing.wav", "check the path"),
    "directory": Case(AUDIO | {"audio_path": "audio-es"}, "audio-es", "give a regular audio file"),
    "empty file": Case(AUDIO | {"audio_path": "empty.wav"}, "empty.wav", "copy it again"),
    "truncated file": Case(AUDIO | {"audio_path": "truncated.wav"}, "truncated.wav", "copy it again"),
    "not audio": Case(AUDIO | {"audio_path": "letter.wav"}, "letter.wav", "convert it to WAV"),
    "no samples": Case(AUDIO | {"audio_path": "nothing.wav"}, "nothing.wav", "export it again"),
    "559 samples": Case(AUDIO | {"audio_path": "short.wav"}, "short.wav", "give a longer recording"),
    "NaN": Case(AUDIO | {"audio_path": "nan.wav"}, "nan.wav", "remove them"),
    "infinity": Case(AUDIO | {"audio_path": "infinity.wav"}, "infinity.wav", "remove them"),
    "silence": Case(AUDIO | {"audio_path": "silence.wav"}, "silence.wav", "check the microphone"),
    "silence in fusion": Case(CONCAT | {"audio_path": "silence.wav"}, "silence.wav", "check the microphone"),
    "no audio": Case(without(AUDIO, "audio_path"), "'audio'", "--audio"),
    "no audio in fusion": Case(without(CONCAT, "audio_path"), "'concat'", "--audio"),
    "no text": Case(without(TEXT, "text"), "'text'", "--text"),
    "no text and no transcriber": Case(
        without(CONCAT, "text") | {"whisper_id": "models/not/here"}, "models/not/here", "name a hub id"
    ),
    "transcriber without files": Case(
        without(TEXT, "text") | {"audio_path": "speech.wav", "whisper_id": "vacant"}, "vacant", "whole model folder"
    ),
    "an emotion checkpoint as transcriber": Case(
        without(CONCAT, "text") | {"whisper_id": "audio-es"}, "audio-es", "such as openai/whisper-base"
    ),
    "empty text": Case(TEXT | {"text": ""}, "text is empty", "pass the words"),
    "blank text": Case(TEXT | {"text": " \t\n"}, "blank", "pass the words"),
    "blank text in fusion": Case(CONCAT | {"text": "  "}, "blank", "pass the words"),
    "text of another encoding": Case(TEXT | {"text": "ma\udcf1ana"}, r"ma\udcf1ana", "pass it as UTF-8"),
    "unknown mode": Case(TEXT | {"mode": "angry"}, "'angry'", "text, audio, concat, mean or multihead"),
    "unknown language": Case(TEXT | {"language": "fr"}, "'fr'", "es or en"),
    "unknown precision": Case(TEXT | {"precision": "float8"}, "'float8'", "float32 or bfloat16"),
    "unknown weights": Case(TEXT | {"weights": "pickle"}, "'pickle'", "safetensors or bin"),
    "unknown device": Case(TEXT | {"device": "banana"}, "'banana'", "cpu:0"),
    "absent accelerator": Case(TEXT | {"device": "rocm"}, "'rocm'", "cpu:0"),
    "absent device": Case(TEXT | {"device": "cpu:7"}, "'cpu:7'", "cpu:0"),
    "missing model.json": Case(TEXT | {"model_config_path": "missing.json"}, "missing.json", "check its path"),
    "missing model": Case(TEXT | {"model_id": "models/not/here"}, "models/not/here", "name a hub id"),
    "missing encoder": Case(CONCAT | {"text_encoder_id": "models/not/here"}, "models/not/here", "check the path"),
    "model is a file": Case(AUDIO | {"model_id": "speech.wav"}, "speech.wav", "name a hub id"),
    "model without weights": Case(AUDIO | {"model_id": "bare"}, "bare", "name a published folder"),
    "model without files": Case(AUDIO | {"model_id": "vacant"}, "vacant", "whole model folder"),
    "model without config": Case(AUDIO | {"model_id": "unconfigured"}, "config.json", "whole model folder"),
    "model without tokenizer": Case(TEXT | {"model_id": "wordless"}, "wordless", "fetch the whole folder"),
    "broken tokenizer": Case(TEXT | {"model_id": "garbled"}, "garbled", "fetch the whole folder"),
    "no bin": Case(AUDIO | {"weights": "bin"}, "model.bin", "leave the choice of weights out"),
    "concat as audio": Case(AUDIO | {"model_id": "concat-es"}, "concat-es", "--mode concat"),
    "concat as mean": Case(CONCAT | {"mode": "mean"}, "concat-es", "--mode concat"),
    "concat as multihead": Case(CONCAT | {"mode": "multihead"}, "concat-es", "--mode concat"),
    "multihead as concat": Case(CONCAT | {"model_id": "multihead-es"}, "multihead-es", "--mode multihead"),
    "audio as concat": Case(CONCAT | {"model_id": "audio-es"}, "audio-es", "--mode audio"),
    "audio as text": Case(TEXT | {"model_id": "audio-es"}, "audio-es", "--mode audio"),
    "text as audio": Case(AUDIO | {"model_id": "text-es"}, "text-es", "--mode text"),
    "English labels as Spanish": Case(AUDIO | {"model_id": "audio-en"}, "audio-en", "choose the right --language"),
    "Spanish labels as English": Case(TEXT | {"language": "en"}, "text-es", "choose the right --language"),
    "too few labels": Case(AUDIO | {"labels": ("calm", "tense")}, "calm, tense", "name each once"),
}


def furnish(folder: Path, published: Callable[[str, str], Path], whisper: Path) -> None:
    """Fill a working directory with the recordings and model folders that the cases name."""
    (folder / "whisper").symlink_to(whisper)
    models = [(mode, "es") for mode in ("text", "audio", "concat", "multihead", "text_encoder")]
    for mode, language in [*models, ("audio", "en")]:
        (folder / f"{mode}-{language}").symlink_to(published(mode, language))
    (folder / "vacant").mkdir()
    shutil.copytree(published("audio", "es"), folder / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(published("audio", "es"), folder / "unconfigured", ignore=shutil.ignore_patterns("config.json"))
    vocabularies = shutil.ignore_patterns("tokenizer.json", "vocab*", "merges.txt")
    shutil.copytree(published("text", "es"), folder / "wordless", ignore=vocabularies)
    shutil.copytree(published("text", "es"), folder / "garbled")
    (folder / "garbled" / "tokenizer.json").write_text("[]")

    speech = noise(1.0)
    soundfile.write(folder / "speech.wav", speech, RATE)
    soundfile.write(folder / "nothing.wav", speech[:0], RATE)
    soundfile.write(folder / "short.wav", speech[:559], RATE)
    soundfile.write(folder / "silence.wav", 0 * speech, RATE)
    for name, value in (("nan", np.nan), ("infinity", np.inf)):
        broken = np.where(np.arange(len(speech)) == 5_000, value, speech)
        soundfile.write(folder / f"{name}.wav", broken, RATE, subtype="FLOAT")
    (folder / "truncated.wav").write_bytes((folder / "speech.wav").read_bytes()[:9_000])
    (folder / "letter.wav").write_text("Dear listener, there is no sound in here.\n" * 50)
    (folder / "empty.wav").touch()


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Gaussian noise of a level that differs from seed to seed, float32."""
    random = np.random.default_rng(seed)
    return (random.uniform(0.02, 0.2) * random.standard_normal(round(seconds * rate))).astype(np.float32)
