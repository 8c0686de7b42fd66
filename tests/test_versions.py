"""The versions that the package is tested with: stated once, and told in one sentence where others are installed."""

import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import speech_emotion_jax
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.errors import UnsupportedVersion
from speech_emotion_jax.runtime import versions

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def installed(monkeypatch: pytest.MonkeyPatch, **others: str) -> None:
    monkeypatch.setattr(versions, "version", lambda package: others.get(package) or metadata.version(package))


def test_the_ranges_are_those_of_the_wheel():
    assert PROJECT["requires-python"] == versions.PYTHON
    for package, bounds in versions.TESTED.items():
        assert package + bounds in PROJECT["dependencies"]


@pytest.mark.parametrize("jax", ["0.10.2", "0.11.0", "0.12.0.1", "0.12.9"])
def test_versions_within_the_range(monkeypatch: pytest.MonkeyPatch, jax: str):
    installed(monkeypatch, jax=jax)
    versions.require_tested_versions()


@pytest.mark.parametrize("package", ["jax", "flax"])
@pytest.mark.parametrize("number", ["0.9.9", "0.10.1", "0.13", "0.13.0.dev20260101", "1.0.0rc1"])
def test_versions_outside_the_range(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str, number: str
):
    installed(monkeypatch, **{package: number})
    sentence = (
        f"speech_emotion_jax is tested with {package}{versions.TESTED[package]} and {number} is installed; "
        "pip install 'jax>=0.10.2,<0.13' 'flax>=0.12.8,<0.13'"
    )
    with pytest.raises(ImportError) as refused:
        _ = speech_emotion_jax.EmotionPipeline
    assert (type(refused.value), str(refused.value)) == (UnsupportedVersion, sentence)
    assert main(["predict", "--mode", "text", "--language", "es", "--text", "hola"]) == 2
    assert sentence in capsys.readouterr().err


def test_another_python(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.15.0")
    with pytest.raises(UnsupportedVersion, match=r"Python >=3.11,<3.15 and this is 3.15.0; install it with another"):
        versions.require_tested_versions()


def test_the_package_itself_imports_no_jax():
    program = "import sys, speech_emotion_jax; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
