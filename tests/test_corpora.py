"""Manifests of corpora, from folders of empty files that are named as theirs."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speech_emotion_jax.corpus.known_corpora import CORPORA, make_manifest
from speech_emotion_jax.corpus.manifest_files import read_manifest, write_manifest
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.registry import LABELS


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., str]:
    """A folder of empty files of these names."""

    def make(*names: str) -> str:
        for name in names:
            path = tmp_path / "corpus" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / "corpus")

    return make


def rows(corpus: str, folder: str) -> dict[str, dict[str, Any]]:
    return {row.pop("filename"): row for row in make_manifest(corpus, folder).table.to_pylist()}


def test_ravdess(tree: Callable[..., str]):
    folder = tree(
        "Actor_12/03-01-06-01-02-01-12.wav",
        "Actor_01/03-02-02-02-01-02-01.wav",
        "Actor_12/._03-01-06-01-02-01-12.wav",  # what macOS leaves
        "README.txt",
    )
    assert rows("ravdess", folder) == {
        "Actor_12/03-01-06-01-02-01-12.wav": {
            "label": "fear",
            "speaker": "12",
            "gender": "female",
            "modality": "audio",
            "channel": "speech",
            "intensity": "normal",
            "statement": "02",
            "repetition": "01",
            "transcription": "Dogs are sitting by the door",
        },
        "Actor_01/03-02-02-02-01-02-01.wav": {
            "label": "calm",
            "speaker": "01",
            "gender": "male",
            "modality": "audio",
            "channel": "song",
            "intensity": "strong",
            "statement": "01",
            "repetition": "02",
            "transcription": "Kids are talking by the door",
        },
    }
    assert "--label-map calm=neutral" in make_manifest("ravdess", folder).notes[0]


def test_ravdess_of_videos(tree: Callable[..., str]):
    take = "-01-06-01-02-01-12"
    folder = tree(f"01{take}.mp4", f"02{take}.mp4", "01-01-05-01-02-01-12.mp4", f"03{take}.wav")
    found = make_manifest("ravdess", folder)
    names = found.table.column("filename").to_pylist()
    assert names == ["01-01-05-01-02-01-12.mp4", f"01{take}.mp4", f"03{take}.wav"]
    assert len(found.notes) == 1
    assert "1 takes are there twice, as audio and as audio-video" in found.notes[0]


def test_names_are_written_in_composed_letters(tree: Callable[..., str]):
    folder = tree(unicodedata.normalize("NFD", "Fear_M_A_engaño.wav"))
    assert rows("mesd", folder)["Fear_M_A_engaño.wav"]["transcription"] == "engaño"


def test_ravdess_has_eight_emotions(tree: Callable[..., str]):
    folder = tree(*(f"03-01-0{number}-01-01-01-01.wav" for number in range(1, 9)))
    labels = [row["label"] for row in rows("ravdess", folder).values()]
    assert labels == ["neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"]


def test_tess(tree: Callable[..., str]):
    folder = tree(
        "OAF_neutral/OA_bite_neutral.wav", "YAF_pleasant_surprised/YAF_dog_ps.wav", "Oaf_Sad/OAF_back_sad.wav"
    )
    assert rows("tess", folder) == {
        "OAF_neutral/OA_bite_neutral.wav": {
            "label": "neutral",
            "speaker": "OAF",
            "word": "bite",
            "transcription": "Say the word bite",
        },
        "Oaf_Sad/OAF_back_sad.wav": {
            "label": "sad",
            "speaker": "OAF",
            "word": "back",
            "transcription": "Say the word back",
        },
        "YAF_pleasant_surprised/YAF_dog_ps.wav": {
            "label": "surprise",
            "speaker": "YAF",
            "word": "dog",
            "transcription": "Say the word dog",
        },
    }


def test_a_corpus_that_is_there_twice_is_refused(tree: Callable[..., str]):
    inner = "TESS Toronto emotional speech set data/OAF_angry/OAF_back_angry.wav"
    folder = tree("OAF_angry/OAF_back_angry.wav", inner)
    with pytest.raises(InvalidInput, match=r"1 recordings twice, such as OAF_angry/OAF_back_angry\.wav and TESS"):
        make_manifest("tess", folder)


def test_savee(tree: Callable[..., str]):
    folder = tree("DC_a01.wav", "KL/sa15.wav", "KL/su02.wav", "JE/a01.wav")
    assert rows("savee", folder) == {
        "DC_a01.wav": {"label": "angry", "speaker": "DC", "sentence": "a01"},
        "JE/a01.wav": {"label": "angry", "speaker": "JE", "sentence": "a01"},
        "KL/sa15.wav": {"label": "sad", "speaker": "KL", "sentence": "sa15"},
        "KL/su02.wav": {"label": "surprise", "speaker": "KL", "sentence": "su02"},
    }


def test_mesd(tree: Callable[..., str]):
    folder = tree("Anger_C_A_abajo.wav", "Happiness_F_B_cumpleaños.wav", "Sadness_M_B_buenos_dias.wav")
    assert rows("mesd", folder) == {
        "Anger_C_A_abajo.wav": {"label": "anger", "voice": "child", "corpus": "A", "transcription": "abajo"},
        "Happiness_F_B_cumpleaños.wav": {
            "label": "joy",
            "voice": "female",
            "corpus": "B",
            "transcription": "cumpleaños",
        },
        "Sadness_M_B_buenos_dias.wav": {
            "label": "sadness",
            "voice": "male",
            "corpus": "B",
            "transcription": "buenos dias",
        },
    }


@pytest.mark.parametrize("corpus", ["ravdess", "tess", "savee", "mesd"])
def test_what_does_not_fit_is_listed(corpus: str, tree: Callable[..., str]):
    good = {
        "ravdess": "03-01-06-01-02-01-12.wav",
        "tess": "OAF_back_angry.wav",
        "savee": "DC_a01.wav",
        "mesd": "Anger_C_A_abajo.wav",
    }[corpus]
    folder = tree("x/other.wav")
    with pytest.raises(InvalidInput, match=f"is not {corpus}: none of its 1"):
        make_manifest(corpus, folder)
    tree(good, "03-01-09-01-02-01-12.wav", "OAF_back_bored.wav", "DC_x01.wav", "Boredom_C_A_abajo.wav")
    with pytest.raises(InvalidInput, match=r"5 of the 6 recordings.*, x/other\.wav"):
        make_manifest(corpus, folder)


def test_labels_are_the_checkpoints(tree: Callable[..., str]):
    folder = tree(*(f"DC_{code}01.wav" for code in ("a", "d", "f", "h", "n", "sa", "su")))
    assert {row["label"] for row in rows("savee", folder).values()} == set(LABELS["en"])
    for path in Path(folder).iterdir():
        path.unlink()
    emotions = ("Anger", "Disgust", "Fear", "Happiness", "Neutral", "Sadness")
    folder = tree(*(f"{emotion}_F_A_x.wav" for emotion in emotions))
    assert {row["label"] for row in rows("mesd", folder).values()} == set(LABELS["es"])


def test_what_is_no_corpus(tmp_path: Path):
    with pytest.raises(InvalidInput, match=", ".join(CORPORA)):
        make_manifest("iemocap", str(tmp_path))
    with pytest.raises(UnreadableInput, match="is not a folder"):
        make_manifest("tess", str(tmp_path / "none"))


# --- MEACorpus

PUBLISHED = "filename,label,transcription,split\n1.mp3,joy,uno,train\n2.mp3,fear,dos,test\n3.mp3,joy,tres,test\n"
KEYED = (
    "youtube_key,segment_id,label,start_time,end_time,transcription,split\n"
    "x,0.mp3,joy,0.0,2500.0,uno,train\nx,1.mp3,fear,3000.0,4000.0,dos,test\ny,0.mp3,joy,0,1000,tres,test\n"
)


def test_meacorpus_as_published(tree: Callable[..., str]):
    folder = tree("audio/1.mp3", "audio/2.mp3", "audio/3.mp3")
    Path(folder, "dataset.csv").write_text(PUBLISHED)
    found = make_manifest("meacorpus", folder)
    assert found.table.column("filename").to_pylist() == ["audio/1.mp3", "audio/2.mp3", "audio/3.mp3"]
    assert found.table.column_names == ["filename", "label", "transcription", "split"]
    assert found.notes == []
    Path(folder, "audio/2.mp3").unlink()
    found = make_manifest("meacorpus", folder)
    assert found.table.column("filename").to_pylist() == ["audio/1.mp3", "audio/3.mp3"]
    assert found.notes == ["1 of 3 clips are left out, they have no recording: 2.mp3"]


def test_meacorpus_with_its_videos(tree: Callable[..., str], tmp_path: Path):
    folder = tree("audio/1.mp3", "audio/2.mp3", "audio/3.mp3")
    Path(folder, "dataset.csv").write_text(PUBLISHED)
    Path(folder, "dataset-with-video-keys.csv").write_text(KEYED)
    table = make_manifest("meacorpus", folder).table
    assert table.column("youtube_key").to_pylist() == ["x", "x", "y"]
    assert table.column("seconds").to_pylist() == [2.5, 1.0, 1.0]
    write_manifest(table, str(tmp_path / "m.csv"))
    again = read_manifest(str(tmp_path / "m.csv"), split="test")
    assert [(row.filename, row.start, row.seconds) for row in again.rows(range(2))] == [
        ("audio/2.mp3", None, 1.0),
        ("audio/3.mp3", None, 1.0),
    ]
    Path(folder, "dataset-with-video-keys.csv").write_text(KEYED.replace("dos", "two"))
    with pytest.raises(InvalidInput, match=r"row 2 of .* 'dos', 'two'"):
        make_manifest("meacorpus", folder)


def test_meacorpus_by_its_videos_alone(tree: Callable[..., str]):
    folder = tree("clips/x/0.mp3", "clips/x/1.mp3", "clips/y/0.mp3")
    Path(folder, "dataset-with-video-keys.csv").write_text(KEYED)
    found = make_manifest("meacorpus", folder).table.column("filename").to_pylist()
    assert found == ["clips/x/0.mp3", "clips/x/1.mp3", "clips/y/0.mp3"]


def test_what_is_no_meacorpus(tree: Callable[..., str]):
    folder = tree("other.mp3")
    with pytest.raises(InvalidInput, match=r"neither dataset\.csv"):
        make_manifest("meacorpus", folder)
    Path(folder, "dataset.csv").write_text(PUBLISHED)
    with pytest.raises(InvalidInput, match="none of the 3 recordings"):
        make_manifest("meacorpus", folder)
    tree("a/1.mp3", "b/1.mp3")
    with pytest.raises(InvalidInput, match=r"1\.mp3 twice"):
        make_manifest("meacorpus", folder)
    Path(folder, "dataset.csv").write_text("path,label\n1.mp3,joy\n")
    with pytest.raises(InvalidInput, match="no column filename, transcription, split"):
        make_manifest("meacorpus", folder)
