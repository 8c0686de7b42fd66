"""README's lines for evaluators, researchers and parity checkers run as they are written, on the demo."""

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from speech_emotion_jax.cli.main import main

ROOT = Path(__file__).parent.parent
SECTIONS = ("On a TPU pod", "Build on it", "Check the numbers")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section, which ends at the next title."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#+ [A-Z]|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, section
    return re.findall(rf"^```{language}\n(.*?)^```", found[1], flags=re.MULTILINE | re.DOTALL)


def commands(section: str) -> list[list[str]]:
    lines = "\n".join(blocks(section, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.fixture
def newcomer(tmp_path, monkeypatch) -> Path:
    """A folder with what a clone has there, and nothing else."""
    for name in ("speech_emotion_jax", "convert"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("section", SECTIONS)
def test_commands(section: str, newcomer: Path, capfd):
    assert commands(section)
    for program, *arguments in commands(section):
        arguments = [path for each in arguments for path in (sorted(glob.glob(each)) if "*" in each else [each])]
        if program == "speech-emotion-jax":
            assert main(arguments) == 0, capfd.readouterr().err
        else:
            assert program == "python"
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_python(newcomer: Path):
    """All blocks of a section are one session."""
    code = "\n".join(blocks("Build on it", "python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) == 1.0, "the probe has learned the six clips"
    assert "together" in done.stdout
