"""The store that shares loaded models between threads: right answers, a bounded number, nothing closed in use."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock

import pytest

import speech_emotion_jax
from speech_emotion_jax import InvalidInput, predict_emotion
from speech_emotion_jax.inference.model_store import CAPACITY, ModelStore

DEMO = Path(speech_emotion_jax.__file__).parent / "demo_data"


class Model:
    """Counts the models that are open, and fails when it is used after it was closed."""

    open = 0
    most = 0
    lock = Lock()

    def __init__(self, key: str):
        self.key = key
        self.closed = False
        with self.lock:
            Model.open += 1
            Model.most = max(Model.most, Model.open)

    def answer(self) -> str:
        assert not self.closed
        time.sleep(0.0005)
        assert not self.closed
        return self.key

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        with self.lock:
            Model.open -= 1


@pytest.fixture(autouse=True)
def _none_open():
    Model.open = Model.most = 0
    yield
    speech_emotion_jax.close()


def ask(store: ModelStore[Model], key: str) -> str:
    with store.borrow(key, lambda: Model(key)) as model:
        return model.answer()


@pytest.mark.parametrize("capacity", [1, 2])
def test_threads_get_their_model(capacity: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CAPACITY, str(capacity))
    store: ModelStore[Model] = ModelStore()
    keys = [str(number * number % 3) for number in range(200)] + ["2"] * 20
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda key: ask(store, key), keys))
    assert answers == keys
    assert Model.most == capacity
    store.clear()
    assert Model.open == len(store) == 0


def test_threads_share_a_model():
    store: ModelStore[Model] = ModelStore()
    together = Barrier(4, timeout=30)

    def use(_: int) -> None:
        with store.borrow("a", lambda: Model("a")):
            together.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert Model.most == 1


def test_a_model_in_use_is_closed_by_its_last_user():
    store: ModelStore[Model] = ModelStore()
    with store.borrow("a", lambda: Model("a")) as first, store.borrow("a", lambda: Model("a")) as second:
        assert first is second
        store.clear()
        assert not first.closed
    assert first.closed
    assert len(store) == 0


def test_a_model_that_loads_during_clear_does_not_stay():
    store: ModelStore[Model] = ModelStore()
    loading, cleared = Event(), Event()

    def load() -> Model:
        loading.set()
        assert cleared.wait(30)
        return Model("a")

    def use() -> str:
        with store.borrow("a", load) as model:
            return model.answer()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(use)
        assert loading.wait(30)
        store.clear()
        cleared.set()
        assert answer.result() == "a"
    assert Model.open == len(store) == 0


def test_another_model_waits_for_a_place():
    store: ModelStore[Model] = ModelStore()
    with ThreadPoolExecutor(1) as pool:
        with store.borrow("a", lambda: Model("a")):
            waiting = pool.submit(ask, store, "b")
            time.sleep(0.05)
            assert not waiting.done()
        assert waiting.result(30) == "b"
    assert Model.most == 1


def test_the_least_recently_used_model_makes_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CAPACITY, "2")
    store: ModelStore[Model] = ModelStore()
    loads: Counter[str] = Counter()

    def load(key: str) -> Model:
        loads[key] += 1
        return Model(key)

    for key in ("a", "b", "a", "c", "a", "b"):
        with store.borrow(key, lambda key=key: load(key)) as model:
            assert model.key == key
    assert loads == {"a": 1, "b": 2, "c": 1}


def test_a_failed_load_leaves_no_trace():
    store: ModelStore[Model] = ModelStore()

    def fail() -> Model:
        raise InvalidInput("no such model")

    with pytest.raises(InvalidInput, match="no such model"), store.borrow("a", fail):
        pass
    assert ask(store, "a") == "a"


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_a_wrong_number_of_models_is_refused(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(CAPACITY, text)
    with pytest.raises(InvalidInput, match=f"{CAPACITY} is '{text}'; set it to a whole number above 0"):
        ask(ModelStore(), "a")


@pytest.mark.slow
def test_predict_emotion_from_eight_threads_with_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path))

    def predict(precision: str) -> dict[str, float]:
        clip, checkpoint = DEMO / "anger.flac", DEMO / "checkpoint"
        return predict_emotion(clip, "basta", checkpoint, "concat", "es", precision=precision)["scores"]

    expected = {precision: predict(precision) for precision in ("float32", "bfloat16")}
    assert expected["float32"] != expected["bfloat16"]
    asked = [("float32", "bfloat16")[number % 3 == 0] for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predict, asked))
    assert answers == [expected[precision] for precision in asked]


def test_close_restores_the_settings_of_the_compilation_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import jax

    from speech_emotion_jax.runtime.compile_cache import SETTINGS

    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path))
    speech_emotion_jax.close()
    names = ["jax_compilation_cache_dir", *SETTINGS]
    before = {name: getattr(jax.config, name) for name in names}
    predict_emotion(DEMO / "anger.flac", "basta", DEMO / "checkpoint", "concat", "es")
    if before["jax_compilation_cache_dir"] is None:
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    speech_emotion_jax.close()
    assert {name: getattr(jax.config, name) for name in names} == before
