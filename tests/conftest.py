"""Check the shapes of every annotated function, and hand out checkpoints and caches."""

import os

# PyTorch's threads spin while they wait, and take the cores from JAX's threads and from other workers. Its library
# reads these variables when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook("speech_emotion_jax", "beartype.beartype")  # before the package is imported

import re  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from importlib.util import find_spec  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

from .support import examples  # noqa: E402, F401  the profiles of hypothesis

jax.config.update("jax_numpy_rank_promotion", "raise")

NEEDS_TORCH = "needs torch, which the extra test-no-torch leaves out; pip install -e '.[test]'"
_IMPORTS_TORCH = re.compile(r"^(import torch|from (torch|safetensors\.torch|\.+support\.checkpoints) )", re.MULTILINE)


class _NeedsTorch(pytest.Module):
    """Skip a test file as a whole."""

    def collect(self):
        pytest.skip(NEEDS_TORCH, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Skip the files that import torch, and the comparisons with the original, where torch is not installed."""
    if find_spec("torch") is None and (
        module_path.parent.name == "parity" or _IMPORTS_TORCH.search(module_path.read_text(encoding="utf-8"))
    ):
        return _NeedsTorch.from_parent(parent, path=module_path)
    return None


PROGRAMS = "compiled-programs"  # a folder of pytest's cache: `--cache-clear` empties it
PROGRAMS_SIZE = 2 << 30  # bytes, beyond which it is emptied


def pytest_configure(config: pytest.Config) -> None:
    """Empty a folder of compiled programs that has grown too large, before any worker of xdist starts."""
    cache = getattr(config, "cache", None)  # missing with `-p no:cacheprovider`
    if cache is None or hasattr(config, "workerinput"):
        return
    folder = cache.mkdir(PROGRAMS)
    if sum(path.stat().st_size for path in folder.iterdir()) > PROGRAMS_SIZE:
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what loads the real whisper-base."""
    for item in items:
        if "whisper_base" in getattr(item, "fixturenames", ()):
            item.add_marker("whisper")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the package an empty folder for what it keeps between processes: programs, tokenizers, checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


OPTIMIZATIONS_OFF = "jax_disable_most_optimizations"


@pytest.fixture(scope="session", autouse=True)
def _compiled_quickly() -> None:
    """Skip most of LLVM's optimizations: they take a third of the tests' time. tests/parity compiles as users do."""
    if OPTIMIZATIONS_OFF.upper() not in os.environ:
        jax.config.update(OPTIMIZATIONS_OFF, True)


@contextmanager
def all_optimizations() -> Iterator[None]:
    """Compile as users do, with nothing left of what was compiled otherwise."""
    before = jax.config.read(OPTIMIZATIONS_OFF)
    jax.clear_caches()
    jax.config.update(OPTIMIZATIONS_OFF, False)
    yield
    jax.clear_caches()
    jax.config.update(OPTIMIZATIONS_OFF, before)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what this process compiles for the next pipeline, the next module and the next run.

    The folder has no limit of its own: with one, JAX locks it and reads all of it for each program that it adds.
    Two workers may then meet in a file that is half written; JAX compiles anew, and the warning is filtered.
    """
    cache = getattr(pytestconfig, "cache", None)
    folder = tmp_path_factory.mktemp(PROGRAMS) if cache is None else cache.mkdir(PROGRAMS)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


MAPS = 20_000  # of the 65,530 that Linux gives a process


@pytest.fixture(scope="module", autouse=True)
def _programs_are_let_go() -> Iterator[None]:
    """Each compiled program on a CPU takes three maps of memory, and a process that has no more of them crashes."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory):
    """Folders of tiny random checkpoints in the published layout, by mode and language, made once."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    from .support.checkpoints import write_audio_checkpoint, write_bert, write_roberta

    root = tmp_path_factory.mktemp("published")
    made: dict[tuple[str, str], object] = {}

    def folder(mode: str, language: str):
        if (mode, language) not in made:
            place = root / f"{mode}-{language}"
            if mode == "text":
                write_roberta(place, language, seed=3)
            elif mode == "text_encoder":
                write_bert(place, language, seed=4)
            else:
                write_audio_checkpoint(place, mode, language, seed=5)
            made[mode, language] = place
        return made[mode, language]

    return folder


@pytest.fixture(scope="session")
def whisper_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Whisper in the published layout; its tokenizer works."""
    pytest.importorskip("torch", reason=NEEDS_TORCH)
    from .support.checkpoints import write_whisper

    return write_whisper(tmp_path_factory.mktemp("whisper") / "tiny", seed=6)


@pytest.fixture(scope="session")
def whisper_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real multilingual whisper-base in the published layout."""
    from scripts.whisper_base import make_whisper_base

    folder = make_whisper_base(tmp_path_factory.mktemp("whisper") / "base")
    yield folder
    shutil.rmtree(folder)  # 290 MB
