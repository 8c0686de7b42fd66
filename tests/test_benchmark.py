"""The benchmark command, on models small enough for a test, and what its figures rest on."""

import json
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion_jax.benchmarking import turns
from speech_emotion_jax.benchmarking.clips import MEACORPUS_SECONDS, count_tokens, make_text, meacorpus_lengths
from speech_emotion_jax.benchmarking.machine import MATRIX_WIDTH, measure_matmul_rate, peak_memory, reset_peak_memory
from speech_emotion_jax.benchmarking.plans import CAREFUL, DIRECT, OURS, TOOLKIT
from speech_emotion_jax.benchmarking.run import (
    FIGURE,
    JSON,
    PAGE,
    TASKS,
    BenchmarkConfig,
    benchmark,
    render_benchmark,
)
from speech_emotion_jax.benchmarking.sides import Worker
from speech_emotion_jax.benchmarking.weights import RandomCheckpoint, concat_config, random_checkpoint
from speech_emotion_jax.config import BertConfig, Wav2Vec2BertConfig
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.models.flops import audio_encoder_flops, text_encoder_flops
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the random checkpoints are."""
    return tmp_path_factory.mktemp("weights")


def small(home: Path, **settings) -> BenchmarkConfig:
    return BenchmarkConfig(
        **{"layers": 1, "width": 64, "weights": str(home), "seconds": (1.0,), "pairs": 1, **settings}
    )


@pytest.fixture(scope="module")
def report(home, tmp_path_factory):
    """Everything of one run against torch, and the folder that it wrote."""
    output = tmp_path_factory.mktemp("benchmarks") / "out"
    tasks = ("encoder", "start", "bulk")
    job = small(home, tasks=tasks, against="torch", output=str(output), clips=3)
    return benchmark(job), output


@pytest.mark.slow
def test_the_sides_compute_the_same(report):
    differences = [case["differences"] for case in report[0]["cases"]]
    assert all(value < 1e-4 for case in differences for value in case.values()), differences


@pytest.mark.slow
def test_every_side_takes_its_turns(report):
    sides = {f"{case['task']}, {case['case']}": set(case["sides"]) for case in report[0]["cases"]}
    assert sides == {
        "encoder, 1 s": {OURS, CAREFUL, DIRECT},
        "start, 1 s": {OURS, TOOLKIT},
        "bulk, 3 clips": {OURS, CAREFUL},
        "bulk, 3 of them": {OURS, TOOLKIT},
    }
    for case in report[0]["cases"]:
        for side in case["sides"].values():
            assert len(side["seconds"]) == case["pairs"] == 1
            assert side["peak_bytes"] > 100e6  # an interpreter with JAX or torch takes more


@pytest.mark.slow
def test_a_title_tells_the_size_of_a_model_that_is_not_the_published_one(report):
    assert {case["title"].split("concat")[-1] for case in report[0]["cases"] if case["task"] != "encoder"} == {
        ", 1 layer of 64"
    }
    assert RandomCheckpoint(Path(), concat_config()).size == ""


@pytest.mark.slow
def test_a_ratio_is_of_neighbouring_turns(report):
    for case in report[0]["cases"]:
        for name, ratio in case["ratios"].items():
            theirs, ours = (np.array(case["sides"][side]["seconds"]) for side in (name, OURS))
            np.testing.assert_allclose(ratio["pairs"], theirs / ours)
            assert ratio["median"] == pytest.approx(np.median(theirs / ours))


@pytest.mark.slow
def test_the_share_of_the_matmul_rate(report):
    case = next(case for case in report[0]["cases"] if case["task"] == "encoder")
    side = case["sides"][OURS]
    most, least = (case["flops"] / seconds / rate for seconds, rate in _ends(side["seconds"], case["matmul_rate"]))
    assert least <= side["of_matmul_rate"] <= most
    assert 1e9 < case["matmul_rate"]["median"] < 1e15


def _ends(seconds, rate):
    return (min(seconds), rate["low"]), (max(seconds), rate["high"])


@pytest.mark.slow
def test_what_is_written(report):
    found, output = report
    assert json.loads((output / JSON).read_text()) == json.loads(json.dumps(found))
    assert (output / FIGURE).read_bytes().startswith(b"\x89PNG")
    page = (output / PAGE).read_text()
    assert FIGURE in page
    for words in ("RANDOM", found["machine"]["processor"], CAREFUL, "3 clips", "the toolkit's way"):
        assert words in page
        assert words in render_benchmark(found) or words == "RANDOM"


@pytest.mark.slow
def test_a_further_run_adds_its_cases_and_replaces_its_own(report, home, tmp_path):
    found, output = report
    (tmp_path / JSON).write_bytes((output / JSON).read_bytes())
    tasks = ("encoder", "prediction")
    again = benchmark(small(home, tasks=tasks, seconds=(1.0, 0.5), pairs=2, output=str(tmp_path)))
    names = [(case["task"], case["case"]) for case in again["cases"]]
    assert len(names) == len(set(names)) == len(found["cases"]) + 3
    replaced = next(case for case in again["cases"] if (case["task"], case["case"]) == ("encoder", "1 s"))
    assert (replaced["pairs"], replaced["ratios"]) == (2, {})
    places = [(TASKS.index(task), float(case.split()[0]) * (case.endswith(" s"))) for task, case in names]
    assert places == sorted(places), "by task and length, whatever was measured first"


@pytest.mark.slow
def test_a_run_of_ours_alone_has_no_figure(home, tmp_path):
    benchmark(small(home, tasks=("encoder",), output=str(tmp_path)))
    assert not (tmp_path / FIGURE).exists()
    assert FIGURE not in (tmp_path / PAGE).read_text()


@pytest.mark.slow
def test_another_machines_figures_are_left_alone(report, home, tmp_path):
    kept = json.loads((report[1] / JSON).read_text())
    kept["machine"]["processor"] = "another"
    (tmp_path / JSON).write_text(json.dumps(kept))
    with pytest.raises(InvalidInput, match="with other machine"):
        benchmark(small(home, tasks=("encoder",), output=str(tmp_path)))


@pytest.mark.slow
def test_torch_is_asked_for_where_it_is_compared_with_alone(home, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('hidden by the test')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    alone = benchmark(small(home, tasks=("encoder",)))
    assert [list(case["sides"]) for case in alone["cases"]] == [[OURS]]
    with pytest.raises(InvalidInput, match=r"hidden by the test.*pip install -e '\.\[torch\]'"):
        benchmark(small(home, tasks=("encoder",), against="torch"))


def test_recordings_of_which_the_sides_would_not_hear_the_same_are_not_timed(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.linspace(-1, 1, 31 * 8_000), 8_000)
    with pytest.raises(InvalidInput, match=r"long\.wav takes 31 s"):
        benchmark(
            BenchmarkConfig(tasks=("transcription",), whisper=str(tmp_path), recordings=(str(tmp_path / "long.wav"),))
        )


def test_torch_is_missed_before_weights_are_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInput, match=r"no module torch.*pip install -e '\.\[torch\]'"):
        benchmark(small(tmp_path, against="torch"))
    assert not list(tmp_path.iterdir())


def test_a_process_that_ends_says_why():
    with closing(Worker("our_side", "knitting", {})) as side, pytest.raises(InvalidInput, match="KeyError: 'knitting'"):
        side.wait_until_loaded()


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": ("knitting",)},
        {"against": "tensorflow"},
        {"precisions": ("float8",)},
        {"seconds": (161.0,)},
        {"seconds": ()},
        {"pairs": 0},
        {"layers": 0},
        {"tasks": ("transcription",)},
    ],
)
def test_jobs_that_cannot_be_done(settings):
    with pytest.raises(InvalidInput):
        BenchmarkConfig(**settings)


def test_the_random_checkpoint_has_the_published_size():
    shapes = parameter_shapes(concat_config())
    text = sum(int(np.prod(shape)) for path, shape in shapes.items() if path.startswith("text_encoder"))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) - text == pytest.approx(583.65e6, rel=1e-4)


def test_flops_are_those_of_the_matrices(home):
    """Each matrix once a frame or token; beside them the products of attention."""
    config, frames, tokens = concat_config(), 499, 39
    shapes = parameter_shapes(config)

    def matrices(part: str) -> int:
        return sum(int(np.prod(shape)) for path, shape in shapes.items() if path.startswith(part) and _matrix(path))

    audio, text = config.audio, config.text
    assert audio is not None
    assert text is not None
    attention = 24 * (2 * frames + audio.positions) * 1024
    assert audio_encoder_flops(audio, frames) == 2 * frames * (matrices("audio_encoder") + attention)
    assert text_encoder_flops(text, tokens) == 2 * tokens * (matrices("text_encoder") + 12 * 2 * tokens * 768)


def _matrix(path: str) -> bool:
    return path.endswith(".kernel")  # the depthwise kernel has another name


def test_texts_have_the_tokens_that_are_counted(home):
    checkpoint = random_checkpoint(concat_config(1, 64), home)
    tokenizer = TextTokenizer(checkpoint.text_encoder, 512)
    for seconds in (0.1, 2.5, 9.3, 160.0):
        assert len(tokenizer(make_text(seconds)).ids) == count_tokens(seconds)


def test_clips_are_as_long_as_the_corpus():
    lengths = meacorpus_lengths(40)
    assert lengths == sorted(lengths)
    assert np.mean(lengths) == pytest.approx(9.24, abs=0.05)  # of the corpus's clips: 9.24 s
    assert MEACORPUS_SECONDS[0] < lengths[0] < lengths[-1] < MEACORPUS_SECONDS[-1]


def test_a_small_model_is_smaller():
    assert concat_config(4).audio == Wav2Vec2BertConfig(num_hidden_layers=4)
    assert concat_config(4).text == BertConfig(num_hidden_layers=2)


def test_the_matmul_rate_is_that_of_numpys_product():
    matrix = np.ones((MATRIX_WIDTH, MATRIX_WIDTH), np.float32)
    assert 1e9 < measure_matmul_rate(lambda: matrix @ matrix) < 1e15


def test_the_peak_can_be_forgotten():
    taken = np.ones(50_000_000)
    before = peak_memory()
    assert before > taken.nbytes
    del taken
    reset_peak_memory()
    assert peak_memory() <= before


def test_texts_are_compared_by_number_and_numbers_by_size():
    assert turns._difference([["a", "b"]], [["a", "c"]]) == 1
    assert turns._difference([[1.0, -2.0]], [[1.0, -4.0]]) == 0.5
