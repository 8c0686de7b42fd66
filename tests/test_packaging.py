"""What an installation holds, and which versions of other packages it allows."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tracked files, with links as links, in which setuptools may write."""
    folder = tmp_path_factory.mktemp("checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if os.path.lexists(ROOT / name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def build(checkout: Path, kind: str, destination: Path) -> Path:
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(destination)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    return destination / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))) as file:
        yield file


@pytest.mark.process
def test_the_wheel_installs_one_package(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"speech_emotion_jax"}


def expected() -> set[str]:
    """Return every file that the installed package must have."""
    files = {
        f"speech_emotion_jax/{path.relative_to(folder)}"
        for folder in (ROOT / "speech_emotion_jax",)
        for pattern in ("**/*.py", "**/*.jinja", "demo_data/**/*", "selfcheck/goldens/*", "py.typed")
        for path in folder.glob(pattern)
        if path.is_file()
    }
    for linked, pattern in (("convert", "**/*.py"), ("configs", "**/*.toml")):
        files |= {f"speech_emotion_jax/{path.relative_to(ROOT)}" for path in (ROOT / linked).glob(pattern)}
    return files


@pytest.mark.process
def test_the_wheel_holds_converter_recipes_and_demo(wheel: zipfile.ZipFile):
    assert expected() <= set(wheel.namelist())
    assert not wheel.read("speech_emotion_jax/convert/engine.py").startswith(b"../")  # a file and no link


@pytest.mark.process
def test_the_source_distribution_holds_the_same(checkout: Path, tmp_path: Path):
    with tarfile.open(build(checkout, "sdist", tmp_path)) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert expected() <= names


@pytest.mark.process
def test_the_converter_has_no_second_name():
    code = (
        "import speech_emotion_jax, speech_emotion_jax.convert.engine as engine, sys\n"
        "assert engine.__name__ == 'speech_emotion_jax.convert.engine'\n"
        "assert 'convert' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The newest releases that the suite has run on, and the oldest.
NEWEST = {
    "jax": "0.12.0.1",
    "flax": "0.12.12",
    "orbax-checkpoint": "0.12.8",
    "grain": "0.2.18",
    "transformers": "5.24.0",
    "numpy": "2.5.5",
    "scipy": "1.18.1",
    "av": "19.0.0",
}
OLDEST = {"jax": "0.10.2", "flax": "0.12.8", "orbax-checkpoint": "0.12.8", "grain": "0.2.18", "transformers": "5.23.0"}


@pytest.mark.parametrize("versions", [NEWEST, OLDEST], ids=["newest", "oldest"])
def test_the_metadata_allows_the_tested_versions(wheel: zipfile.ZipFile, versions: dict[str, str]):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = wheel.read(name).decode().splitlines()
    requirements = [Requirement(line.removeprefix("Requires-Dist: ")) for line in lines if "Requires-Dist: " in line]
    named = {requirement.name for requirement in requirements}
    assert versions.keys() <= named
    refused = [
        str(requirement)
        for requirement in requirements
        if requirement.name in versions and not requirement.specifier.contains(versions[requirement.name])
        if "extra" not in str(requirement.marker) or requirement.name == "av"
    ]
    assert not refused
