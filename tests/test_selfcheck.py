"""`selfcheck`: what it finds on this machine, and that it finds faults."""

import json
import math
from functools import partial
from pathlib import Path

import jax
import pytest

from speech_emotion_jax.cli.main import main
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.models import attend
from speech_emotion_jax.selfcheck import SelfcheckConfig, attention, numbers
from speech_emotion_jax.selfcheck.checks import Check, as_dict, limited

CPU = jax.devices("cpu")[0]


@pytest.mark.slow
def test_the_short_form_passes_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["selfcheck", "--device", "cpu", "--short", "--minutes", "4", "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "selfcheck.json").read_text(encoding="utf-8"))
    assert report["passed"]
    names = {check["name"] for check in report["checks"]}
    assert {f"golden of the {name} checkpoint, float32" for name in ("demo", "random")} <= names
    assert "attention, 200 frames, float32, gradient" in names
    assert {"encoder, 10 s", "encoder, 30 s", "matrix product, float32"} <= {
        each["name"] for each in report["measurements"]
    }
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert "PASSED" in printed
    page = (tmp_path / "out" / "selfcheck.html").read_text(encoding="utf-8")
    assert "PASSED" in page
    assert "RANDOM" in page


def test_attention_passes():
    checks = list(attention.check_attention(CPU, (1, 65), ("float32",)))
    assert [check.name for check in checks] == [
        f"attention, {frames} frames, float32{what}" for frames in (1, 65) for what in ("", ", gradient")
    ]
    assert all(check.passed for check in checks)


def test_a_wrong_position_is_found(monkeypatch: pytest.MonkeyPatch):
    """Seeded fault: keys one frame further to the left."""

    def shifted(*arrays: jax.Array, left: int, **settings: object) -> jax.Array:
        return attend(*arrays, left=left - 1, **settings)

    monkeypatch.setattr(attention, "attend", shifted)
    assert [check.passed for check in attention.check_attention(CPU, (65,), ("float32",))] == [False, False]


def test_another_checkpoint_is_told_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Seeded fault: the random checkpoint is of another width than the golden's."""
    monkeypatch.setattr(numbers, "random_config", partial(numbers.concat_config, 2, 64))
    checks = list(numbers.check_goldens(CPU, tmp_path, ("float32",)))
    assert [check.passed for check in checks] == [True, False]
    assert "another checkpoint" in checks[1].remark


def test_one_device_leaves_sharding_out():
    check = numbers.check_sharding([CPU])
    assert (check.passed, check.value) == (None, None)


def test_what_is_not_a_number_fails():
    check = limited("a check", math.nan, 1.0, 0.0)
    assert check.passed is False
    assert as_dict(check)["value"] is None
    assert as_dict(Check("another", 0.5, 1.0, True))["value"] == 0.5


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(InvalidInput, match="positive"):
        SelfcheckConfig(minutes=0.0)
    (tmp_path / "file").touch()
    assert main(["selfcheck", "--output", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
