"""README and the site's pages do what they say.

Blocks marked `bash` in the guides are run on the demo. Blocks marked `sh`, and README's, need recordings or published
weights that a test doesn't have: the parser must take them. Blocks marked `console` are run and must fail with their
message. Tables of fields, columns and names are compared with the code. Links in README lead to files; the site's build
checks its own.
"""

import argparse
import dataclasses
import glob
import importlib.util
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

import speech_emotion_jax
from speech_emotion_jax import EmotionConfig
from speech_emotion_jax.cli.help import GROUP_OF
from speech_emotion_jax.cli.main import _parser, main
from speech_emotion_jax.corpus.manifest import FIELDS
from speech_emotion_jax.models import parameter_shapes
from speech_emotion_jax.registry import LABELS, LANGUAGES, PUBLISHED
from speech_emotion_jax.training.history import SCHEMA
from speech_emotion_jax.training.recipe import TABLES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README.es.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = DOCS / "guides"
RUN = [path.stem for path in sorted(GUIDES.glob("*.md")) if "```bash" in path.read_text(encoding="utf-8")]

ENCODER_FILES = ("bert", "roberta", "wav2vec2_bert")  # the layouts and models of the encoders that exist


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path, language: str) -> list[list[str]]:
    lines = "\n".join(blocks(page, language)).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&|\s&\s*$", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder that holds what a clone holds, and nothing else."""
    for name in ("speech_emotion_jax", "convert", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.process
@pytest.mark.parametrize("guide", RUN)
def test_commands_of_the_guides_run(guide: str, newcomer: Path, capfd: pytest.CaptureFixture[str]):
    lines = commands(GUIDES / f"{guide}.md", "bash")
    assert lines
    for program, *arguments in lines:
        arguments = [path for each in arguments for path in (sorted(glob.glob(each)) if "*" in each else [each])]
        if program == "speech-emotion-jax":
            assert main(arguments) == 0, capfd.readouterr().err
        else:
            assert program == "python"
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_the_python_of_build_runs(newcomer: Path):
    """All Python blocks of the page are one session."""
    code = "\n".join(blocks(GUIDES / "build.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) == 1.0, "the probe has learned the six clips"
    assert "together" in done.stdout


@pytest.mark.process
def test_the_python_of_encoder_runs_on_four_devices(newcomer: Path):
    code = "\n".join(blocks(GUIDES / "encoder.md", "python"))
    (devices,) = re.findall(r"XLA_FLAGS=(\S+)", (GUIDES / "encoder.md").read_text(encoding="utf-8"))
    environment = {**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == 3


@pytest.mark.slow
def test_the_python_of_threads_runs(newcomer: Path):
    exec("\n".join(blocks(GUIDES / "threads.md", "python")), {})


def verb_parsers() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    return subparsers.choices


def verbs() -> dict[str, set[str]]:
    """Return the flags of each verb, read from the parser."""
    return {name: set(verb._option_string_actions) for name, verb in verb_parsers().items()}


@pytest.mark.parametrize("verb", verbs())
def test_help_of_a_verb_ends_with_an_example_that_the_parser_takes(verb: str):
    words = shlex.split(verb_parsers()[verb].format_help().split("example:\n  speech-emotion-jax ")[1])
    assert words[0] == verb
    assert len(words) > 1
    _parser().parse_args(words)


def test_help_has_every_flag_in_a_group():
    everywhere = {flag for flags in verbs().values() for flag in flags if flag.startswith("--")} - {"--help"}
    assert set(GROUP_OF) == everywhere, "each flag belongs to a group of cli/help.py"
    shown = verb_parsers()["evaluate"].format_help()
    titles = ["input:", "model:", "measuring:", "devices and speed:", "several hosts:", "output:"]
    assert [title for title in titles if f"\n{title}\n" not in shown] == []


def test_verbs_and_flags_of_all_pages_exist():
    known = verbs()
    checked = 0
    for page in PAGES:
        for words in [*commands(page, "sh"), *commands(page, "bash")]:
            if not words[0].endswith("speech-emotion-jax"):
                continue
            verb, flags = words[1], {word.partition("=")[0] for word in words if word.startswith("--")}
            assert verb in known, f"{page.name}: no verb {verb}"
            assert flags <= known[verb], f"{page.name}: {verb} has no {sorted(flags - known[verb])}"
            if "..." not in words:  # without it, the line is whole
                _parser().parse_args(words[1:])
            checked += 1
    assert checked > 60


def test_every_error_of_the_faq_is_what_the_command_says(newcomer: Path, capfd: pytest.CaptureFixture[str]):
    examples = [block.splitlines() for block in blocks(DOCS / "faq.md", "console")]
    assert len(examples) > 10
    for command, *message in examples:
        assert main(shlex.split(command)[2:]) == 2
        assert " ".join(message) in capfd.readouterr().err, command


def test_each_page_says_first_whom_it_is_for_and_what_they_will_have():
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page.name == "index.md" or "{include}" in text or "benchmarks" in page.parts:
            continue
        first = " ".join(re.sub(r"\A---\n.*?\n---\s*", "", text, flags=re.DOTALL).split("\n\n")[1].split())
        start, end = (
            ("Para ", "Al final de esta página") if page.parent.name == "es" else ("For ", "At the end of this page")
        )
        assert first.startswith(start), page.name
        assert end in first, page.name


def table(page: Path, section: str = "") -> dict[str, list[str]]:
    """Return {first cell: other cells} of the tables of a section, without the cells' backticks."""
    text = page.read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {name.strip("`"): [cell.strip(" `") for cell in cells] for name, *cells in rows}


def test_the_page_of_recipes_has_every_field_and_default():
    for name, cls in TABLES.items():
        fields = {each.name: each.default for each in dataclasses.fields(cls)}
        for inner in ("encoders", "audio", "text") if name == "model" else ():
            fields.pop(inner)
        written = {field: cells[0] for field, cells in table(DOCS / "reference" / "recipe.md", name).items()}
        assert written.keys() == fields.keys()
        for field, default in fields.items():
            value = list(default) if isinstance(default, tuple) else default
            shown = "needed" if default is dataclasses.MISSING else "none" if default is None else json.dumps(value)
            assert written[field] == shown, f"{name}.{field}"


def test_the_page_of_manifests_has_every_column():
    kinds = {"string": "text", "double": "number", "int64": "whole number"}
    written = {field: cells[0] for field, cells in table(DOCS / "reference" / "manifest.md").items()}
    assert written == {field: kinds[str(kind)] for field, kind in FIELDS.items()}


@pytest.mark.slow
def test_the_page_of_results_has_what_runs_write(newcomer: Path):
    demo = "speech_emotion_jax/demo_data"
    arguments = f"evaluate --manifest {demo}/manifest.csv --model-id {demo}/checkpoint --mode concat --language es"
    assert main([*arguments.split(), "--output", "run"]) == 0
    page = DOCS / "reference" / "results.md"
    text = page.read_text(encoding="utf-8")
    schema = pq.read_schema("run/predictions.parquet")
    columns = {each.name: str(each.type) for each in schema if each.name not in ("filename", "label", "transcription")}
    written = {name: cells[0] for name, cells in table(page, "evaluate").items()}
    for name, kind in columns.items():
        key = "score_LABEL" if name.startswith("score_") else name
        assert written[key].replace("float32", "float").replace("float64", "double") == kind, name
    metrics = json.loads(Path("run/metrics.json").read_text(encoding="utf-8"))
    throughput = json.loads(Path("run/throughput.json").read_text(encoding="utf-8"))
    record = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    for name in (*metrics, *throughput, *record, *SCHEMA.names):
        assert f"`{name}`" in text, name


def test_the_page_of_python_has_every_public_name():
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    assert [name for name in speech_emotion_jax.__all__ if f"speech_emotion_jax.{name}" not in text] == []


def test_the_page_of_checkpoints_has_the_published_ids_and_labels():
    text = " ".join((GUIDES / "checkpoints.md").read_text(encoding="utf-8").split())
    for language in LANGUAGES:
        assert all(model in text for model in PUBLISHED.models[language].values())
        assert ", ".join(LABELS[language]) in text
        assert PUBLISHED.text_encoder_id(language) in text


def test_the_page_of_own_recordings_has_the_size_of_the_model():
    shapes = parameter_shapes(EmotionConfig.published("es", "concat"))
    billions = sum(math.prod(shape) for shape in shapes.values()) / 1e9
    text = " ".join((GUIDES / "own-recordings.md").read_text(encoding="utf-8").split())
    assert f"{billions:.2f} billion parameters, {4 * billions:.1f} GB in float32" in text
    low, high = binomtest(30, 40).proportion_ci(method="wilson")
    assert f"30 right are 75 % with an interval from about {100 * low:.0f} to {100 * high:.0f} %" in text


def test_the_page_of_citation_agrees_with_the_citation_file():
    text = (DOCS / "cite.md").read_text(encoding="utf-8")
    for key, value in re.findall(
        r"^ *(title|version|volume|year|license): (.+)$", (ROOT / "CITATION.cff").read_text(), re.M
    ):
        assert f"{key:7} = {{{value.strip(chr(34))}}}" in text


def test_add_an_encoder_names_every_file_that_knows_one():
    """A file that names an encoder's class, its configuration or its type in config.json is touched by a new one."""
    text = (DOCS / "add-an-encoder.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:speech_emotion_jax|convert|tests)/[^`]+)`", text))
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []
    sources = [*(ROOT / "speech_emotion_jax").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]
    knowing = re.compile(r"\b(Wav2Vec2Bert\w*|BertConfig|Roberta\w+|wav2vec2-bert)\b")
    touched = {
        path.relative_to(ROOT).as_posix() for path in sources if knowing.search(path.read_text(encoding="utf-8"))
    }
    own = {f"{wing}/{name}.py" for wing in ("speech_emotion_jax/models", "convert/layouts") for name in ENCODER_FILES}
    assert touched - named - own == set()


def test_pictures_have_words_and_are_small():
    used = set()
    for page in PAGES:
        weight = 0
        for words, link in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(words) > 10, f"{page.name}: {link} has no alternative text"
            picture = (page.parent / link).resolve()
            weight += picture.stat().st_size
            used.add(picture.name)
        assert weight < 900_000, f"{page.name} is heavier than 1 MB"
    pictures = {path.name for path in (DOCS / "pictures").iterdir()}
    assert pictures <= used
    for drawing in (DOCS / "pictures").glob("*.svg"):
        assert "<desc id=" in drawing.read_text(encoding="utf-8")


def test_the_picture_of_the_house_has_every_wing():
    text = (DOCS / "pictures" / "house.svg").read_text(encoding="utf-8")
    wings = {path.parent.name for path in (ROOT / "speech_emotion_jax").glob("*/__init__.py")} - {"inputs"}
    assert [wing for wing in sorted(wings) if not re.search(rf"\b{wing}\b", text)] == []


def test_llms_txt_names_every_page():
    specification = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    assert specification is not None
    assert specification.loader is not None
    conf = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(conf)
    text = conf.llms_text(DOCS)
    assert "- [What a score means](guides/scores.html): For everybody who reads a number" in text
    assert text.count("\n- [") == len([page for page in DOCS.rglob("*.md") if "benchmarks" not in page.parts])


SPANISH = {
    "README.es.md": "README.md",
    "docs/es/quickstart.md": "docs/quickstart.md",
    "docs/es/predict.md": "docs/guides/predict.md",
    "docs/es/responsible-use.md": "docs/responsible-use.md",
}


@pytest.mark.parametrize(("spanish", "english"), SPANISH.items())
def test_the_commands_of_a_spanish_page_are_those_of_the_english_one(spanish: str, english: str):
    def lines(page: str) -> set[str]:
        found = [block for language in ("bash", "sh", "python") for block in blocks(ROOT / page, language)]
        return {line.partition("#")[0].strip() for block in found for line in block.splitlines()}

    assert lines(spanish) <= lines(english)


def test_readme_has_one_screen_and_names_every_verb():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [verb for verb in verbs() if f"`{verb}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "README.es.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page: str):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_ci_runs_the_command_of_readme():
    (command,) = [line for line in blocks(ROOT / "README.md", "bash")[1].splitlines() if "'.[test]'" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
