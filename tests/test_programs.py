"""Compiled programs on disk: found again by other processes, made ahead, and nobody's trouble where they can't be."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.inference.warmup import render_warmup, warm_up
from speech_emotion_jax.runtime.compile_cache import cached_programs

from .support.folders import refusal

LISTENING = """
import json, sys
from collections import Counter
import jax
counts = Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
def report(**more):
    print(json.dumps({"hits": counts["cache_hits"], "misses": counts["cache_misses"], **more}))
arguments = json.loads(sys.argv[1])
"""


def run(code: str, cache: Path, arguments: Any = None, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `report` says in a process of its own, with the package's caches in that folder."""
    done = subprocess.run(
        [sys.executable, "-c", LISTENING + code, json.dumps(arguments)],
        env={**os.environ, "SPEECH_EMOTION_JAX_CACHE": str(cache), **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two lengths, and so two shapes; three rows, and so two sizes of a batch."""
    for name, seconds in (("a", 0.5), ("b", 0.55), ("c", 1.2)):
        noise = np.random.default_rng(0).normal(size=round(16_000 * seconds)) * 0.1
        soundfile.write(tmp_path / f"{name}.wav", noise, 16_000)
    (tmp_path / "manifest.csv").write_text("filename,transcription\na.wav,hola\nb.wav,ay\nc.wav," + "no " * 20 + "\n")
    return tmp_path


WARM = """
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.inference.warmup import render_warmup, warm_up
model, encoder = arguments
warmed = warm_up(Request(model, "concat", "es", encoder), seconds=1.2, batch_size=2)
report(compiled=warmed.compiled, said=render_warmup(warmed))
"""
USE = """
from speech_emotion_jax import predict_emotion
model, encoder, folder = arguments
predict_emotion(folder + "/a.wav", "hola", model, "concat", "es", text_encoder_id=encoder)
heavy = [name for name in ("transformers", "torch", "orbax", "sklearn", "grain") if name in sys.modules]
from speech_emotion_jax.evaluation.run import EvaluateConfig, evaluate
from speech_emotion_jax.checkpoints import Request
request = Request(model, "concat", "es", encoder)
evaluate(EvaluateConfig(folder + "/manifest.csv", folder + "/out", request, batch_size=2))
report(heavy=heavy)
"""


@pytest.mark.process
def test_after_a_warm_up_nothing_is_compiled(published, recordings: Path, tmp_path: Path):
    """On two devices: one predicts, both evaluate."""
    models = [str(published("concat", "es")), str(published("text_encoder", "es"))]
    simulated = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    warm = run(WARM, tmp_path / "cache", models, simulated)
    assert warm["compiled"] == warm["misses"] == len(cached_programs(str(tmp_path / "cache/compiled")))
    assert re.match(r"compiled \d+ programs in \d+ s, for clips of up to 1.2 s; \d+ programs in ", warm["said"])
    used = run(USE, tmp_path / "cache", [*models, str(recordings)], simulated)
    assert used["misses"] == 0
    assert used["hits"] >= 4 + 7  # each has features, audio encoder, text encoder, head; evaluation of several shapes
    assert used["heavy"] == []


@pytest.mark.process
def test_nor_after_that_of_a_transcriber(published, whisper_tiny: Path, recordings: Path, tmp_path: Path):
    warm = """
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.inference.warmup import warm_up
warm_up(Request(arguments[0], "text", "es"), whisper=arguments[1])
report()
"""
    use = """
from contextlib import suppress
from speech_emotion_jax import InvalidInput, predict_emotion
with suppress(InvalidInput):  # these random weights may hear nothing
    predict_emotion(arguments[2], None, arguments[0], "text", "es", whisper_id=arguments[1])
report()
"""
    arguments = [str(published("text", "es")), str(whisper_tiny), str(recordings / "c.wav")]
    assert run(warm, tmp_path / "cache", arguments)["misses"] > 0
    used = run(use, tmp_path / "cache", arguments)
    assert (used["misses"], used["hits"] > 3) == (0, True)


@pytest.mark.process
def test_what_the_user_says_to_jax_goes_first(tmp_path: Path):
    code = """
from speech_emotion_jax.runtime.compile_cache import enable_compile_cache
enable_compile_cache()
jax.jit(lambda x: x + 1)(1.0)
report(seconds=jax.config.jax_persistent_cache_min_compile_time_secs)
"""
    ours = run(code, tmp_path / "ours")
    assert (ours["misses"] > 0, ours["seconds"]) == (True, 0)
    assert cached_programs(str(tmp_path / "ours/compiled"))

    theirs = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    assert run(code, tmp_path / "unused", environment=theirs)["seconds"] == 0.5
    assert (tmp_path / "theirs").is_dir()

    off = run(code, tmp_path / "unused", environment={"JAX_ENABLE_COMPILATION_CACHE": "false"})
    assert off["misses"] == 0

    patient = run(code, tmp_path / "patient", environment={"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "60"})
    assert (patient["misses"], patient["seconds"]) == (0, 60)
    assert not (tmp_path / "unused").exists()


@pytest.mark.process
def test_a_pipeline_leaves_the_settings_of_its_host_alone(published, tmp_path: Path):
    code = """
from speech_emotion_jax import EmotionPipeline
before = dict(jax.config.values)
EmotionPipeline.from_pretrained(arguments, mode="text", language="es").predict([{"text": "hola"}])
report(changed=[name for name, value in jax.config.values.items() if before[name] != value])
"""
    assert run(code, tmp_path, str(published("text", "es")))["changed"] == []
    assert not (tmp_path / "compiled").exists()


@pytest.mark.process
def test_a_folder_that_can_not_be_written_is_one_line_in_the_log(published, tmp_path: Path):
    (tmp_path / "file").write_text("")
    code = """
from speech_emotion_jax.cli.main import main
predict = ["predict", "--mode", "text", "--text", "hola", "--model-id", arguments, "--json"]
codes = [main(predict), main(predict)]
report(codes=codes)
"""
    done = run(code, tmp_path / "file" / "below", str(published("text", "es")))
    assert done["codes"] == [0, 0]
    (line,) = (line for line in done["stderr"].splitlines() if "Reading tensors" not in line)
    assert f"{tmp_path / 'file/below/compiled'} can't be written, so programs are compiled again" in line
    assert "SPEECH_EMOTION_JAX_CACHE" in line


@pytest.mark.process
def test_info_says_where_and_how_much(tmp_path: Path):
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "jit_a-cache").write_bytes(bytes(1_500_000))
    (tmp_path / "compiled" / "jit_a-atime").write_bytes(bytes(8))
    code = """
from speech_emotion_jax.checkpoints.info import describe_installation
report(said=describe_installation()["compiled"])
"""
    assert run(code, tmp_path)["said"] == f"{tmp_path / 'compiled'} (1 program, 1.5 MB)"
    assert run(code, tmp_path, environment={"JAX_ENABLE_COMPILATION_CACHE": "false"})["said"].startswith("not kept")


def test_a_warm_up_of_this_process(published):
    warmed = warm_up(Request(str(published("text", "es")), "text", "es"))
    assert warmed.longest is None
    assert warmed.programs >= max(1, warmed.compiled)
    assert re.match(r"compiled \d+ programs? in \d+ s; \d+ programs? in ", render_warmup(warmed))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "the batch size is 0"),
        ({"seconds": 0.0}, "0 seconds is not a valid clip length"),
        ({"seconds": float("nan")}, "nan seconds is not a valid clip length"),
        ({"device": "gpu:7"}, "gpu:7"),
        ({"precision": "float8"}, "float8"),
    ],
)
def test_a_warm_up_that_can_not_be(published, settings: dict[str, Any], said: str):
    assert said in refusal(lambda: warm_up(Request(str(published("text", "es")), "text", "es"), **settings))


@pytest.mark.process
def test_a_warm_up_for_nothing_is_refused(published, tmp_path: Path):
    code = """
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.inference.warmup import warm_up
try:
    warm_up(Request(arguments, "text", "es"))
except InvalidInput as error:
    report(said=str(error))
"""
    model = str(published("text", "es"))
    assert "unset it" in run(code, tmp_path, model, {"JAX_ENABLE_COMPILATION_CACHE": "false"})["said"]
    (tmp_path / "file").write_text("")
    assert "no program can be kept" in run(code, tmp_path / "file", model)["said"]
