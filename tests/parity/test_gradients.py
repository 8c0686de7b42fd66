"""What training follows: gradients and loss curves of the JAX models against torch's, on the same random weights."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.published import tables_of
from speech_emotion_jax.models import wav2vec2_bert
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.parity.original import TorchOriginal
from speech_emotion_jax.training.optimizer import make_optimizer
from speech_emotion_jax.training.recipe import OptimizerConfig
from speech_emotion_jax.training.step import TrainingMethod

from ..support.checkpoints import write_audio_checkpoint, write_bert, write_roberta

pytestmark = pytest.mark.slow

LENGTHS = (61, 50, 41, 8)  # of the clips of a batch, in frames
LONG = (97, 70, 41, 8)  # more than one block of attention
TOKENS = (13, 9, 4, 12)
LABELS = (0, 3, 5, 3)

Parameters = dict[str, jax.Array]
Batch = dict[str, np.ndarray]

# Each program runs a few times at most, and compiling it is what takes time.
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# An optimizer that only keeps the gradient, as its state.
KEEP = optax.GradientTransformation(
    lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
    lambda gradient, state, parameters=None: (jax.tree.map(jnp.zeros_like, gradient), gradient),
)


def batch_of(mode: str, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    """Four padded clips with labels, of the kinds that a mode takes; what is in the padding is noise as well."""
    rng = np.random.default_rng(seed)
    batch = {"labels": np.array(LABELS, np.int32), "valid": np.ones(4, bool)}
    if mode != "text":
        batch["features"] = rng.normal(size=(4, max(lengths), 160)).astype(np.float32)
        batch["frame_mask"] = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    if mode != "audio":
        batch["token_mask"] = np.arange(max(TOKENS))[None] < np.array(TOKENS)[:, None]
        # RoBERTa counts positions by where its padding (1) is; no token of a text is that of padding.
        batch["ids"] = np.where(batch["token_mask"], rng.integers(5, 290, (4, max(TOKENS))), 1).astype(np.int32)
    return batch


def load(model: Path, text: Path | None, mode: str) -> tuple[EmotionConfig, Parameters]:
    request = Request(str(model), mode=mode, language="es", text_encoder=text and str(text))
    loaded = load_checkpoint(request, jax.devices()[0], "float32").model
    return loaded.config, parameters_of(loaded)


def method_of(config: EmotionConfig, optimizer: optax.GradientTransformation, **options: Any) -> TrainingMethod:
    return TrainingMethod(config, optimizer, jnp.ones(len(config.labels)), **options)


def our_gradient(
    method: TrainingMethod, parameters: Parameters, batch: Batch, parts: int = 1, key: jax.Array | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a step, and its gradient by torch's names."""
    arrays = {name: jnp.asarray(each.reshape(parts, -1, *each.shape[1:])) for name, each in batch.items()}
    state, measured = jax.jit(method.step, compiler_options=CHEAP)(method.init_state(parameters), {}, arrays, key)
    assert all((state.learning[path] == array).all() for path, array in parameters.items())
    return float(measured.loss), by_torch_name(method.config, state.optimizer)


def by_torch_name(config: EmotionConfig, arrays: Parameters) -> dict[str, np.ndarray]:
    """Parameters or gradients under the names and in the shapes of torch, stacks taken apart."""
    tables = tables_of(config).values()
    return {
        name: array
        for table in tables
        for name, array in table.layout.tensors({path: np.asarray(arrays[path]) for path in table.shapes}).items()
    }


def torch_parameters(original: TorchOriginal) -> dict[str, torch.nn.Parameter]:
    """All parameters, made to learn. The names of the text encoder and of the rest have nothing in common."""
    modules = [module for module in (original.model, original.text_encoder) if module is not None]
    for module in modules:
        module.requires_grad_(True)
    return {name: parameter for module in modules for name, parameter in module.named_parameters()}


def torch_loss(original: TorchOriginal, batch: Batch, batch_coupled: bool = False) -> torch.Tensor:
    def of(name: str) -> torch.Tensor | None:
        return (
            torch.tensor(batch[name].astype(np.float32 if name == "features" else np.int64)) if name in batch else None
        )

    logits = original.logits(of("features"), of("frame_mask"), of("ids"), of("token_mask"), batch_coupled)
    return torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))


def torch_gradient(original: TorchOriginal, batch: Batch, batch_coupled: bool = False) -> tuple[float, dict[str, Any]]:
    """The loss, and the gradient by name: None of what takes no part."""
    parameters = torch_parameters(original)
    loss = torch_loss(original, batch, batch_coupled)
    loss.backward()
    return loss.item(), {name: None if each.grad is None else each.grad.numpy() for name, each in parameters.items()}


def assert_same(ours: tuple[float, dict[str, np.ndarray]], theirs: tuple[float, dict[str, Any]]) -> set[str]:
    """Losses and gradients agree. Returns the names of what has no gradient: exactly zero in ours, and in torch's."""
    assert abs(ours[0] - theirs[0]) < 1e-5
    left_over = theirs[1].keys() - ours[1].keys()  # in torch's classes, and in no computation
    assert all(name.startswith("classifier.layernorm.") for name in left_over)
    assert all(theirs[1][name] is None for name in left_over)
    assert ours[1].keys() <= theirs[1].keys()
    zeros = {name: np.zeros_like(each) for name, each in ours[1].items()}
    expected = {name: zeros[name] if theirs[1][name] is None else theirs[1][name] for name in zeros}
    largest = max(np.linalg.norm(each) for each in expected.values())
    assert largest > 0.1
    off = {
        name: (np.linalg.norm(each - expected[name]), np.linalg.norm(expected[name]))
        for name, each in ours[1].items()
        if np.linalg.norm(each - expected[name]) > 1e-4 * np.linalg.norm(expected[name]) + 1e-6 * largest
    }
    assert off == {}
    idle = {name for name, each in ours[1].items() if not each.any()}
    assert idle == {name for name, each in expected.items() if not each.any()}
    return idle


def folders(root: Path, mode: str, **overrides: Any) -> tuple[Path, Path | None]:
    """A checkpoint of a mode, and its text encoder where it has one. Few taps of the convolution compile fast."""
    if mode == "text":
        return write_roberta(root / "model", "es", seed=3), None
    taps = {"conv_depthwise_kernel_size": 5}
    model = write_audio_checkpoint(root / "model", mode, "es", seed=5, config_overrides=taps | overrides)
    return model, None if mode == "audio" else write_bert(root / "text", "es", seed=4)


@pytest.mark.parametrize(
    ("mode", "across_batch"),
    [("text", False), ("audio", False), ("concat", False), ("mean", False), ("multihead", False), ("multihead", True)],
)
def test_gradients_are_torchs(tmp_path, mode, across_batch):
    model, text = folders(tmp_path, mode)
    config, parameters = load(model, text, mode)
    batch = batch_of(mode, lengths=LONG if mode == "audio" else LENGTHS)
    method = method_of(config, KEEP, across_batch=across_batch)
    original = TorchOriginal(model, mode, text)
    idle = assert_same(our_gradient(method, parameters, batch), torch_gradient(original, batch, across_batch))
    expected = set() if mode == "text" else {"wav2vec2_bert.masked_spec_embed"}
    if mode == "multihead" and not across_batch:  # a clip attends to itself alone
        expected |= {
            f"mult_attn_model.heads.{head}.{part}.{kind}"
            for head in range(8)
            for part in ("Wq", "Wk", "Wq_reverse", "Wk_reverse", "norm")
            for kind in ("weight", "bias")
        }
    assert idle == expected


def test_frozen_encoders_leave_the_rest_its_gradient(tmp_path):
    model, text = folders(tmp_path, "concat")
    config, parameters = load(model, text, "concat")
    method, batch = method_of(config, KEEP), batch_of("concat")
    head = {path: array for path, array in parameters.items() if "encoder" not in path}
    frozen = {path: array for path, array in parameters.items() if path not in head}
    arrays = {name: jnp.asarray(each[None]) for name, each in batch.items()}
    state, _ = jax.jit(method.step, compiler_options=CHEAP)(method.init_state(head), frozen, arrays, None)
    ours = by_torch_name(config, parameters | state.optimizer)
    _, theirs = torch_gradient(TorchOriginal(model, "concat", text), batch)
    names = [name for name in ours if name.startswith(("projector.", "classifier."))]
    assert len(names) == len(head) == 6
    for name in names:
        assert np.linalg.norm(ours[name] - theirs[name]) <= 1e-4 * np.linalg.norm(theirs[name])


@pytest.mark.parametrize(
    ("overrides", "lengths"),
    [
        ({"use_weighted_layer_sum": True}, LENGTHS),
        # torch lets padding into an adapter's convolutions, so the clips have one length here.
        ({"add_adapter": True, "output_hidden_size": 48, "use_intermediate_ffn_before_adapter": True}, (61,) * 4),
    ],
    ids=["weighted sum", "adapter"],
)
def test_gradients_of_optional_parts(tmp_path, overrides, lengths):
    model, _ = folders(tmp_path, "audio", **overrides)
    config, parameters = load(model, None, "audio")
    batch = batch_of("audio", lengths=lengths)
    idle = assert_same(
        our_gradient(method_of(config, KEEP), parameters, batch), torch_gradient(TorchOriginal(model, "audio"), batch)
    )
    assert idle == {"wav2vec2_bert.masked_spec_embed"}


def test_parts_and_remat_change_no_gradient(tmp_path):
    """The mean is over the clips of all parts, the last of which is no clip here."""
    model, _ = folders(tmp_path, "audio")
    config, parameters = load(model, None, "audio")
    batch = batch_of("audio") | {"valid": np.array([True, True, True, False])}
    original = TorchOriginal(model, "audio")
    three = {name: each[:3] for name, each in batch.items()}
    theirs = torch_parameters(original)
    logits = original.logits(torch.tensor(three["features"]), torch.tensor(three["frame_mask"].astype(np.int64)))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS[:3]))
    loss.backward()
    gradient = {name: None if each.grad is None else each.grad.numpy() for name, each in theirs.items()}
    assert_same(our_gradient(method_of(config, KEEP, remat=True), parameters, batch, parts=2), (loss.item(), gradient))


def test_gradients_under_spec_augment(tmp_path, monkeypatch):
    """The same frames masked in both: the vector that stands in for them learns, and so does all else."""
    learning_rates = ("feat_proj_dropout", "hidden_dropout", "activation_dropout", "attention_dropout", "final_dropout")
    learning_rates += ("conformer_conv_dropout", "layerdrop")
    overrides = dict.fromkeys(learning_rates, 0.0) | {"mask_time_prob": 0.3}
    model, _ = folders(tmp_path, "audio", **overrides)
    config, parameters = load(model, None, "audio")
    batch = batch_of("audio")
    masked = np.random.default_rng(1).random((4, LENGTHS[0])) < 0.3  # in the padding, too, where it must not matter
    monkeypatch.setattr(wav2vec2_bert, "masked_spans", lambda *args, **kwargs: jnp.asarray(masked))
    original = TorchOriginal(model, "audio")
    encoder = original.model.wav2vec2_bert
    monkeypatch.setattr(encoder, "forward", partial(encoder.forward, mask_time_indices=torch.tensor(masked)))
    ours = our_gradient(method_of(config, KEEP), parameters, batch, key=jax.random.key(0))
    assert assert_same(ours, torch_gradient(original, batch)) == set()


@pytest.mark.parametrize("mode", ["audio", "concat"])
def test_ten_steps_give_torchs_losses(tmp_path, mode):
    """AdamW with clipping, on two batches in turn, everything learning."""
    model, text = folders(tmp_path, mode)
    config, parameters = load(model, text, mode)
    chosen = OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, warmup=0.0, schedule="constant", clip_norm=1.0)
    method = method_of(config, make_optimizer(chosen, {path: each.shape for path, each in parameters.items()}, 10))
    batches = [batch_of(mode, seed) for seed in (0, 1)]

    step, state, ours = jax.jit(method.step, compiler_options=CHEAP), method.init_state(parameters), []
    for index in range(10):
        arrays = {name: jnp.asarray(each[None]) for name, each in batches[index % 2].items()}
        state, measured = step(state, {}, arrays, None)
        ours.append(float(measured.loss))

    original = TorchOriginal(model, mode, text)
    learning = list(torch_parameters(original).values())
    groups = [
        {"params": [each for each in learning if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in learning if each.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer, theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8), []
    for index in range(10):
        optimizer.zero_grad()
        loss = torch_loss(original, batches[index % 2])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        theirs.append(loss.item())

    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert ours[8] < ours[0] - 0.1
    assert ours[9] < ours[1] - 0.1
