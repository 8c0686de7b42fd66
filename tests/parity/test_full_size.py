"""Parity at the published size: 24 layers of width 1024, 0.58 B parameters, and BETO's 12 layers; random weights.

pytest -m full_size
"""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.parity.original import TorchOriginal

from ..support.budgets import LAYER_BUDGET, LOGIT_BUDGET, PROBABILITY_BUDGET
from ..support.checkpoints import FULL, write_audio_checkpoint, write_bert, write_roberta

pytestmark = pytest.mark.full_size
TEXT = "No me lo puedo creer, ¡qué alegría!"


@pytest.fixture(scope="module", params=["concat", "multihead", "text"])
def both(request, tmp_path_factory):
    """The torch original and our checkpoint of a mode, from the same files."""
    mode = request.param
    root = tmp_path_factory.mktemp(mode)
    text = None
    if mode == "text":
        model = write_roberta(root / "model", "es", size=FULL)
    else:
        model = write_audio_checkpoint(root / "model", mode, "es", size=FULL)
        text = write_bert(root / "text", "es", size=FULL)
    asked = Request(str(model), mode=mode, language="es", text_encoder=text and str(text))
    checkpoint = load_checkpoint(asked, jax.devices()[0], "float32")
    assert parameter_shapes(checkpoint.config) == parameter_shapes(EmotionConfig.published("es", mode))
    yield TorchOriginal(model, mode, text), checkpoint
    for path in sorted(root.rglob("*.safetensors")):
        path.unlink()  # gigabytes
    gc.collect()


def test_every_layer_and_the_logits(both, capsys):
    original, checkpoint = both
    model, report = checkpoint.model, []
    inputs, torch_inputs = {}, {}
    if checkpoint.config.audio is not None:
        x = np.random.default_rng(0).normal(size=(1, 150, 160)).astype(np.float32)
        mask = np.arange(150)[None] < 149
        inputs |= {"features": jnp.asarray(x), "frame_mask": jnp.asarray(mask)}
        torch_inputs |= {"features": torch.tensor(x), "mask": torch.tensor(mask.astype(np.int64))}
        states = all_states(model.audio_encoder, inputs["features"], inputs["frame_mask"])
        report += compare("audio", states, original.audio_hidden_states(*torch_inputs.values()))
    if checkpoint.config.text is not None:
        ids, token_mask = original.tokens(TEXT)
        inputs |= {"ids": jnp.asarray(ids.numpy().astype(np.int32)), "token_mask": jnp.asarray(token_mask.numpy() > 0)}
        torch_inputs |= {"ids": ids, "token_mask": token_mask}
        states = all_states(model.text_encoder, inputs["ids"], inputs["token_mask"])
        report += compare("text", states, original.text_hidden_states(ids, token_mask))
    theirs = original.logits(**torch_inputs).detach().numpy()
    logits = np.asarray(jax.jit(lambda model, inputs: model(**inputs))(model, inputs))
    error = np.abs(logits - theirs).max()
    with capsys.disabled():
        worst = max(report, key=lambda row: row[1])
        print(f"\n{checkpoint.config.mode}: worst layer {worst[0]}, {worst[1]:.1e} of its largest value")
        print(f"{checkpoint.config.mode}: logits {error:.1e}")
    assert max(row[1] for row in report) <= LAYER_BUDGET
    assert error <= LOGIT_BUDGET


@jax.jit
def all_states(encoder, x, mask):
    return encoder(x, mask, hidden_states=True).hidden_states


def compare(name: str, ours: jax.Array, theirs: list[torch.Tensor]) -> list[tuple[str, float]]:
    assert len(ours) == len(theirs)
    pairs = [(np.asarray(a), b.detach().numpy()) for a, b in zip(ours, theirs, strict=True)]
    return [(f"{name} {i}", float(np.abs(a - b).max() / np.abs(b).max())) for i, (a, b) in enumerate(pairs)]


def test_probabilities_from_the_waveform(both, capsys):
    from speech_emotion_jax import EmotionPipeline
    from speech_emotion_jax.inference.scorer import Scorer
    from speech_emotion_jax.runtime.devices import select_mesh

    original, checkpoint = both
    pipeline = EmotionPipeline(Scorer(checkpoint, select_mesh("cpu")), batch_size=1)
    has_audio, has_text = checkpoint.config.audio is not None, checkpoint.config.text is not None
    waveform = (np.random.default_rng(1).normal(size=5 * 16_000) * 0.1).astype(np.float32)
    [prediction] = pipeline.predict([{"audio": {"array": waveform, "sampling_rate": 16_000}, "text": TEXT}])
    theirs = original.probabilities(waveform=waveform if has_audio else None, text=TEXT if has_text else None)
    error = np.abs(np.array(list(prediction["scores"].values())) - np.ravel(theirs)).max()
    with capsys.disabled():
        print(f"\n{checkpoint.config.mode}: probabilities from a 5 s waveform {error:.1e}")
    assert error <= PROBABILITY_BUDGET


def test_swapped_layers_move_a_logit(both):
    _, checkpoint = both
    model = checkpoint.model
    if model.audio_encoder is not None:
        kernel = model.audio_encoder.layers.ffn1.output_dense.kernel
        inputs = {
            "features": jnp.asarray(np.random.default_rng(2).normal(size=(1, 50, 160)).astype(np.float32)),
            "frame_mask": jnp.ones((1, 50), bool),
        }
    else:
        kernel = model.text_encoder.layers.output.kernel
        inputs = {}
    if model.text_encoder is not None:
        inputs |= {"ids": jnp.arange(5, 17)[None], "token_mask": jnp.ones((1, 12), bool)}
    logits = jax.jit(lambda model, inputs: model(**inputs))
    before, kept = logits(model, inputs), kernel.get_value()
    order = list(range(len(kept)))
    order[4], order[5] = order[5], order[4]
    kernel.set_value(kept[jnp.array(order)])
    after = logits(model, inputs)
    kernel.set_value(kept)
    assert np.abs(np.asarray(after - before)).max() > 0.01
