"""The tokenizer that is kept: the same tokens as transformers' own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.text.tokenizer import FastTokenizer, TextTokenizer, load_cached_tokenizer

from .support.examples import examples
from .support.folders import rewrite_json

KINDS = [("text_encoder", "es"), ("text_encoder", "en"), ("text", "es")]


@pytest.mark.parametrize(("mode", "language"), KINDS)
@given(text=st.text(min_size=1).filter(str.strip) | st.text("aeñú [MASK].¿", min_size=1).filter(str.strip))
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_are_those_of_transformers(
    published, tmp_path_factory: pytest.TempPathFactory, mode: str, language: str, text: str
):
    folder, kept = published(mode, language), tmp_path_factory.getbasetemp() / "kept"
    theirs, ours = TextTokenizer(folder, 16), load_cached_tokenizer(folder, 16, kept)
    assert isinstance(ours, FastTokenizer)
    try:
        expected = theirs(text)
    except InvalidInput as error:
        with pytest.raises(InvalidInput, match=str(error)[:20]):
            ours(text)
    else:
        assert ours(text) == expected


@pytest.mark.process
def test_a_second_start_needs_no_transformers(published, tmp_path: Path):
    first = load_cached_tokenizer(published("text", "es"), 512, tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom speech_emotion_jax.text.tokenizer import load_cached_tokenizer\n"
        "print(load_cached_tokenizer(Path(sys.argv[1]), 512, Path(sys.argv[2]))('¡hola!').ids, "
        "'transformers' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(published("text", "es")), str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert said == f"{first('¡hola!').ids} False"


def test_other_files_are_another_tokenizer(published, tmp_path: Path):
    folder = shutil.copytree(published("text_encoder", "es"), tmp_path / "folder")
    before = load_cached_tokenizer(folder, 512, tmp_path / "kept")("HOLA")
    rewrite_json(folder / "tokenizer_config.json", do_lower_case=False)
    after = load_cached_tokenizer(folder, 512, tmp_path / "kept")("HOLA")
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert after == TextTokenizer(folder, 512)("HOLA") != before


def test_what_is_kept_may_be_broken_or_unwritable(published, tmp_path: Path):
    folder = published("text", "es")
    load_cached_tokenizer(folder, 512, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert load_cached_tokenizer(folder, 512, tmp_path)("hola") == TextTokenizer(folder, 512)("hola")
    assert file.read_bytes() == whole
    assert load_cached_tokenizer(folder, 512, file / "below")("hola") == TextTokenizer(folder, 512)("hola")


def test_a_broken_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(UnreadableInput, match="the tokenizer in"):
        load_cached_tokenizer(tmp_path, 512, tmp_path / "kept")
