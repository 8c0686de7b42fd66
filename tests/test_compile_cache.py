"""JAX's folder of compiled programs after kills, other settings and broken disks, and one that is read only."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.runtime import cache_folder as cache_folder_module
from speech_emotion_jax.runtime.cache_folder import cache_folder
from speech_emotion_jax.runtime.cache_repair import CHECKED, LOCK, _decompressor, repair_compile_cache

from .support.examples import examples
from .test_programs import run

# Programs in a form that this JAX may write. Zstandard is used where it is installed.
if _decompressor() is zlib.decompress:
    compress = zlib.compress
else:
    try:
        from compression.zstd import compress
    except ImportError:
        import zstandard

        compress = zstandard.ZstdCompressor().compress

WHOLE = compress(bytes(range(256)) * 50)

DAMAGES: dict[str, Callable[[Path], object]] = {
    "no time": lambda folder: (folder / "a-atime").unlink(),
    "an empty time": lambda folder: (folder / "a-atime").write_bytes(b""),
    "a folder as time": lambda folder: ((folder / "a-atime").unlink(), (folder / "a-atime").mkdir()),
    "half a program": lambda folder: (folder / "a-cache").write_bytes(WHOLE[: len(WHOLE) // 2]),
    "half a program without a time": lambda folder: (
        (folder / "a-cache").write_bytes(WHOLE[: len(WHOLE) // 2]),
        (folder / "a-atime").unlink(),
    ),
    "an empty program": lambda folder: (folder / "a-cache").write_bytes(b""),
    "noise": lambda folder: (folder / "a-cache").write_bytes(os.urandom(500)),
    "a folder as program": lambda folder: ((folder / "a-cache").unlink(), (folder / "a-cache").mkdir()),
    "a link to nothing": lambda folder: (
        (folder / "a-cache").unlink(),
        (folder / "a-cache").symlink_to(folder / "no" / "where"),
    ),
    "no program": lambda folder: (folder / "a-cache").unlink(),
    "a broken list": lambda folder: (folder / CHECKED).write_bytes(b"[1"),
}


def fill(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}-cache").write_bytes(WHOLE)
        (folder / f"{name}-atime").write_bytes((7).to_bytes(8, "little"))
    return folder


@given(damages=st.lists(st.sampled_from(sorted(DAMAGES)), max_size=2), checked=st.booleans())
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_cache_is_repaired(
    tmp_path_factory: pytest.TempPathFactory, damages: list[str], checked: bool, caplog: pytest.LogCaptureFixture
):
    folder = fill(tmp_path_factory.mktemp("cache") / "compiled")
    if checked:
        repair_compile_cache(folder)
    for damage in damages:
        try:
            DAMAGES[damage](folder)
        except OSError:  # the damage before it leaves nothing to damage
            continue
    repair_compile_cache(folder)
    present = {path.name for path in folder.iterdir()} - {LOCK, CHECKED}
    for path in folder.glob("*-cache"):
        assert path.read_bytes() == WHOLE
        assert len(path.with_name(path.name.replace("-cache", "-atime")).read_bytes()) == 8
    assert {"b-cache", "b-atime"} <= present <= {"a-cache", "a-atime", "b-cache", "b-atime"}
    assert ("a-cache" in present) == ("a-atime" in present)
    if set(damages) <= {"no time", "an empty time", "a folder as time", "a broken list"}:
        assert "a-cache" in present
    assert (folder / "b-atime").read_bytes() == (7).to_bytes(8, "little")
    assert caplog.text == ""


def test_whole_programs_are_not_read_again(tmp_path: Path):
    folder = fill(tmp_path / "compiled")
    repair_compile_cache(folder)
    assert set(json.loads((folder / CHECKED).read_bytes())) == {"a-cache", "b-cache"}
    before = (folder / CHECKED).stat().st_mtime_ns
    repair_compile_cache(folder)
    assert (folder / CHECKED).stat().st_mtime_ns == before
    repair_compile_cache(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@pytest.mark.process
def test_programs_are_added_after_a_kill(tmp_path: Path):
    code = """
from speech_emotion_jax.runtime.compile_cache import enable_compile_cache
assert enable_compile_cache()
jax.jit(lambda x: x * arguments + 1)(1.0)
report()
"""
    compiled = tmp_path / "compiled"
    run(code, tmp_path, 2.0)
    victim = next(compiled.glob("*-cache"))
    victim.with_name(victim.name.replace("-cache", "-atime")).unlink()
    victim.write_bytes(victim.read_bytes()[:100])
    count = len(list(compiled.glob("*-cache")))
    again = run(code, tmp_path, 3.0)
    assert "UserWarning" not in again["stderr"]
    assert len(list(compiled.glob("*-cache"))) == count  # one removed, one added
    assert not victim.exists()
    last = run(code, tmp_path, 3.0, {"JAX_COMPILATION_CACHE_MAX_SIZE": "-1"})
    assert (last["misses"], last["stderr"]) == (0, "")


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
def test_a_warm_cache_that_is_read_only_is_used(tmp_path: Path):
    code = """
import os
from speech_emotion_jax.runtime.compile_cache import enable_compile_cache
if arguments:
    os.setuid(54321)
kept = enable_compile_cache()
jax.jit(lambda x: x * 2 + 1)(1.0)
if arguments:
    jax.jit(lambda x: x * 5 + 7)(1.0)
report(kept=kept)
"""
    folder = Path(f"/tmp/read-only-cache-{os.getpid()}")  # pytest's own folders are closed to other users
    try:
        folder.mkdir()
        warm = run(code, folder)
        assert (warm["kept"], warm["misses"] > 0) == (True, True)
        count = len(list((folder / "compiled").iterdir()))
        used = run(code, folder, 1)
        assert (used["kept"], used["hits"]) == (False, warm["misses"])
        (line,) = used["stderr"].splitlines()
        assert "can't be written, so its programs are used and others are compiled in each process" in line
        assert len(list((folder / "compiled").iterdir())) == count
    finally:
        shutil.rmtree(folder)


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("SPEECH_EMOTION_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache_folder_module._temporary_folder.cache_clear()
    folder = cache_folder()
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert cache_folder() == folder
    (record,) = caplog.records
    assert "SPEECH_EMOTION_JAX_CACHE" in record.getMessage()

    cache_folder_module._temporary_folder.cache_clear()
    folder.chmod(0o777)
    with pytest.raises(InvalidInput, match=r"others can write .* SPEECH_EMOTION_JAX_CACHE"):
        cache_folder()
    cache_folder_module._temporary_folder.cache_clear()
