"""README and the site's pages do what they say.

Blocks marked `bash` in the guides are run on the demo. Blocks marked `sh`, and README's, need recordings or published
weights that a test doesn't have: their verbs and flags are checked. Links in README lead to files.
"""

import argparse
import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from speech_emotion_jax.cli.main import _parser, main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUN = ["evaluate", "tpu-pod", "train", "build", "parity", "precision", "predict"]


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
    lines = commands(DOCS / "guides" / f"{guide}.md", "bash")
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
    code = "\n".join(blocks(DOCS / "guides" / "build.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) == 1.0, "the probe has learned the six clips"
    assert "together" in done.stdout


def verbs() -> dict[str, set[str]]:
    """Return the flags of each verb, read from the parser."""
    (subparsers,) = (each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    return {name: set(verb._option_string_actions) for name, verb in subparsers.choices.items()}


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
            checked += 1
    assert checked > 40


def test_readme_has_one_screen_and_names_every_verb():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert [verb for verb in verbs() if f"`{verb}`" not in text] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page: str):
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_ci_runs_the_command_of_readme():
    (command,) = [line for line in blocks(ROOT / "README.md", "bash")[1].splitlines() if "'.[test]'" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
