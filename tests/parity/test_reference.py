"""The torch original and the random checkpoints, checked by themselves before anything is compared with them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers import Wav2Vec2BertForSequenceClassification as TransformersClassifier

from speech_emotion_jax.parity.original import MAX_TOKENS, TorchOriginal, attention
from speech_emotion_jax.parity.original_files import read_tensors

from ..support.checkpoints import (
    FULL,
    LABELS,
    SMALL,
    TINY,
    Size,
    audio_config,
    audio_shapes,
    write_audio_checkpoint,
    write_bert,
    write_roberta,
)

AUDIO_MODES = ("audio", "concat", "mean", "multihead")
TEXTS = ("Estoy muy feliz, ¡qué día!", "no me hables así: tengo miedo y rabia")
SAME = 1e-5  # two float32 evaluations of the same formula


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Arrays this small gain nothing from threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def voice(seconds: float, seed: int) -> np.ndarray:
    """A voiced sound of wandering pitch and loudness, 16 kHz."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    pitch = rng.uniform(90, 220) * (1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    loudness = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 5) * time)
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (0.1 * loudness * harmonics + 0.005 * rng.standard_normal(time.size)).astype(np.float32)


def original(folder: Path, mode: str, size: Size = TINY, **checkpoint) -> TorchOriginal:
    if mode == "text":
        return TorchOriginal(write_roberta(folder / mode, "es", size=size, **checkpoint), mode)
    audio = write_audio_checkpoint(folder / mode, mode, "es", size=size, **checkpoint)
    return TorchOriginal(audio, mode, None if mode == "audio" else write_bert(folder / "bert", "es", size=size))


def padded_batch(arrays: list[tuple[Tensor, Tensor]], filler: float) -> tuple[Tensor, Tensor]:
    """Batches of one, (values, mask) each, as one right-padded batch."""
    values, masks = ([pair[i][0] for pair in arrays] for i in (0, 1))
    return (
        torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=filler),
        torch.nn.utils.rnn.pad_sequence(masks, batch_first=True),
    )


# What is written


def test_masked_spec_embed_is_absent_without_masking():
    config = audio_config("audio", "es", TINY, mask_time_prob=0.0)
    assert "wav2vec2_bert.masked_spec_embed" not in audio_shapes(config, "audio", TINY.text_width)


def test_mean_and_multihead_refuse_unequal_widths():
    for mode in ("mean", "multihead"):
        with pytest.raises(ValueError, match="equal widths"):
            audio_shapes(audio_config(mode, "es", TINY), mode, text_width=TINY.projection + 1)


def test_a_seed_is_one_checkpoint(tmp_path: Path):
    first, again, other = (
        load_file(write_audio_checkpoint(tmp_path / name, "concat", "es", seed=seed) / "model.safetensors")
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_a_seed_is_one_audio_encoder_in_every_mode(tmp_path: Path):
    tensors = [
        load_file(write_audio_checkpoint(tmp_path / mode, mode, "es") / "model.safetensors") for mode in AUDIO_MODES
    ]
    encoder = [name for name in tensors[0] if name.startswith(("wav2vec2_bert.", "projector."))]
    assert all(torch.equal(tensors[0][name], other[name]) for other in tensors[1:] for name in encoder)


def test_shards_hold_what_one_file_holds(tmp_path: Path):
    whole = write_audio_checkpoint(tmp_path / "whole", "multihead", "en")
    sharded = write_audio_checkpoint(tmp_path / "sharded", "multihead", "en", shards=3)
    assert sorted(path.name for path in sharded.glob("*.safetensors")) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    one, three = read_tensors(whole), read_tensors(sharded)
    assert one.keys() == three.keys()
    assert all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize("language", ["es", "en"])
def test_folders_carry_labels_and_metadata(tmp_path: Path, language: str):
    folder = write_audio_checkpoint(tmp_path / "audio", "mean", language, dtype="float16")
    config = AutoConfig.from_pretrained(folder)
    assert tuple(config.id2label.values()) == LABELS[language]
    assert config.architectures == ["CustomAudioClassificationMean"]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("projector.weight").dtype == torch.float16
    own = write_audio_checkpoint(tmp_path / "own", "mean", language, labels=("calm", "excited"))
    assert AutoConfig.from_pretrained(own).label2id == {"calm": 0, "excited": 1}
    assert read_tensors(own)["classifier.out_proj.bias"].shape == (2,)


# Tokenizers


@pytest.mark.parametrize(("language", "pieces"), [("es", ["qué", "mañana"]), ("en", ["que", "m"])])
def test_bert_tokenizer_lowers_case_and_keeps_spanish_accents(tmp_path: Path, language: str, pieces: list[str]):
    folder = write_bert(tmp_path, language)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("QUÉ mañana")[: len(pieces)] == pieces
    assert len(tokenizer) == AutoConfig.from_pretrained(folder).vocab_size
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(folder).pad_token_id
    ids = tokenizer("¿Cómo está el pingüino? — «¡Muy bien!», dijo. It's 7 o'clock…")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_roberta_tokenizer_spells_every_text(tmp_path: Path):
    folder = write_roberta(tmp_path, "es")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == AutoConfig.from_pretrained(folder).vocab_size
    assert tokenizer.tokenize("x corazón") == ["x", "Ġcoraz" + "Ã³" + "n"]  # one token: its merges are learnt
    text = "¿Cómo está? — «¡Muy bien!» 愛 🙂"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


# What is loaded


@pytest.mark.parametrize("mode", [*AUDIO_MODES, "text"])
def test_loading_is_strict(tmp_path: Path, mode: str):
    original(tmp_path, mode)
    file = tmp_path / mode / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.extra"] = tensors.pop("classifier.dense.bias")
    save_file(tensors, file)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*classifier\.dense\.bias.*Unexpected.*classifier\.extra"):
        TorchOriginal(tmp_path / mode, mode, None if mode in ("audio", "text") else tmp_path / "bert")


def test_the_unused_layernorm_must_be_there_and_changes_nothing(tmp_path: Path):
    original(tmp_path, "audio")
    file = tmp_path / "audio" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors, file)  # with a header as long as below: where the matrices lie in it may change a last bit
    before = TorchOriginal(tmp_path / "audio", "audio").probabilities(voice(0.5, 0))
    tensors["classifier.layernorm.weight"] += 1
    save_file(tensors, file)
    assert np.array_equal(TorchOriginal(tmp_path / "audio", "audio").probabilities(voice(0.5, 0)), before)
    del tensors["classifier.layernorm.weight"]
    save_file(tensors, file)
    with pytest.raises(RuntimeError, match=r"classifier\.layernorm\.weight"):
        TorchOriginal(tmp_path / "audio", "audio")


def test_half_precision_files_are_computed_in_float32(tmp_path: Path):
    half = original(tmp_path, "audio", dtype="float16").logits(*original(tmp_path, "audio").features(voice(0.5, 0)))
    single = original(tmp_path, "audio").logits(*original(tmp_path, "audio").features(voice(0.5, 0)))
    assert half.dtype == torch.float32
    assert 0 < (half - single).abs().max() < 1e-2


def test_published_bert_forms_are_the_same_encoder(tmp_path: Path):
    audio = write_audio_checkpoint(tmp_path / "audio", "concat", "es")
    forms = (
        {},
        {"prefix": "bert."},
        {"old_names": True},
        {"extra_heads": True},
        {"prefix": "bert.", "old_names": True, "extra_heads": True},
    )
    embeddings = []
    for number, form in enumerate(forms):
        encoder = TorchOriginal(audio, "concat", write_bert(tmp_path / str(number), "es", **form))
        embeddings.append(encoder.text_embedding(*encoder.tokens(TEXTS[0])))
    assert all(torch.equal(embeddings[0], other) for other in embeddings[1:])
    old = read_tensors(tmp_path / "4")
    assert old["bert.embeddings.position_ids"].dtype == torch.int64
    assert {"bert.embeddings.LayerNorm.gamma", "bert.pooler.dense.weight", "cls.seq_relationship.weight"} <= old.keys()
    assert not any(name.endswith(("LayerNorm.weight", "LayerNorm.bias")) for name in old)


def test_concat_takes_a_text_encoder_of_another_width(tmp_path: Path):
    wide = Size(**(vars(TINY) | {"text_width": 36}))
    audio = write_audio_checkpoint(tmp_path / "audio", "concat", "en", text_width=36)
    concat = TorchOriginal(audio, "concat", write_bert(tmp_path / "bert", "en", size=wide))
    fused = concat.fused(*concat.features(voice(0.5, 0)), *concat.tokens("very happy"))
    assert fused.shape == (1, TINY.projection + 36)
    assert concat.probabilities(voice(0.5, 0), "very happy").shape == (len(LABELS["en"]),)


# What is computed


def test_features_are_stacked_by_two_and_an_odd_last_frame_is_masked(tmp_path: Path):
    audio = original(tmp_path, "audio")
    for samples, frames in ((560, 2), (720, 3), (880, 4)):
        features, mask = audio.features(voice(1.0, 0)[:samples])
        assert features.shape == (1, math.ceil(frames / 2), 160)
        assert mask.tolist() == [[1] * (frames // 2) + [0] * (frames % 2)]
    assert audio.features(np.tile(voice(10.0, 0), 17))[0].shape == (1, 8000, 160)  # 160 s of 170 s


def test_hidden_states_begin_with_the_masked_projection(tmp_path: Path):
    audio = original(tmp_path, "audio")
    features, mask = padded_batch([audio.features(voice(seconds, 0)) for seconds in (0.3, 0.5)], filler=7.0)
    states = audio.audio_hidden_states(features, mask)
    assert len(states) == TINY.layers + 1
    weights = read_tensors(tmp_path / "audio")
    projection = "wav2vec2_bert.feature_projection."
    norm = [weights[f"{projection}layer_norm.{name}"] for name in ("weight", "bias")]
    expected = linear(
        layer_norm(features, (160,), *norm),
        weights[f"{projection}projection.weight"],
        weights[f"{projection}projection.bias"],
    )
    assert (states[0] - expected * mask[..., None]).abs().max() < SAME
    assert torch.equal(states[-1], audio.model.wav2vec2_bert(features, attention_mask=mask).last_hidden_state)


def test_text_hidden_states_end_with_the_last_layer(tmp_path: Path):
    for mode in ("concat", "text"):
        text = original(tmp_path, mode)
        states = text.text_hidden_states(*text.tokens(TEXTS[0]))
        assert len(states) == TINY.text_layers + 1
        assert torch.equal(text.text_embedding(*text.tokens(TEXTS[0])), states[-1][:, 0])


def test_eager_attention_is_what_transformers_computes_by_default(tmp_path: Path):
    audio = original(tmp_path, "audio", SMALL)
    inputs = padded_batch([audio.features(voice(seconds, 0)) for seconds in (0.3, 1.0)], filler=7.0)
    assert audio.model.wav2vec2_bert.config._attn_implementation == "eager"
    eager = audio.logits(*inputs)
    audio.model.wav2vec2_bert.set_attn_implementation("sdpa")
    assert (audio.logits(*inputs) - eager).abs().max() < SAME


@pytest.mark.parametrize("overrides", [{}, {"use_weighted_layer_sum": True}])
def test_pooling_is_that_of_the_class_the_toolkit_extends(tmp_path: Path, overrides: dict[str, bool]):
    audio = original(tmp_path, "audio", config_overrides=overrides)
    inputs = padded_batch([audio.features(voice(seconds, 0)) for seconds in (0.3, 0.5)], filler=7.0)
    extended = TransformersClassifier(AutoConfig.from_pretrained(tmp_path / "audio"))
    extended.classifier = audio.model.classifier  # transformers' own is another, single layer
    extended.load_state_dict(read_tensors(tmp_path / "audio"), strict=True)
    expected = extended.eval()(inputs[0], attention_mask=inputs[1]).logits
    assert (audio.logits(*inputs) - expected).abs().max() < SAME


def test_classifier_is_dense_tanh_out_proj(tmp_path: Path):
    audio = original(tmp_path, "audio")
    weights = read_tensors(tmp_path / "audio")
    dense, out_proj = (
        [weights[f"classifier.{layer}.{name}"] for name in ("weight", "bias")] for layer in ("dense", "out_proj")
    )
    inputs = audio.features(voice(0.5, 0))
    expected = linear(linear(audio.fused(*inputs), *dense).tanh(), *out_proj)
    assert (audio.logits(*inputs) - expected).abs().max() < SAME


def test_attention_is_scaled_dot_product():
    queries, keys, values = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(0))
    coupled = attention(queries, keys, values, batch_coupled=True)
    assert (coupled - scaled_dot_product_attention(queries, keys, values)).abs().max() < SAME
    assert torch.equal(attention(queries, keys, values, batch_coupled=False), values)  # one key: its weight is 1


def test_fusions_are_what_they_are_called(tmp_path: Path):
    for mode in ("concat", "mean", "multihead"):
        fusion = original(tmp_path, mode)
        clips = [fusion.features(voice(0.4, seed)) for seed in (0, 1)]
        inputs = (*padded_batch(clips, 0.0), *padded_batch([fusion.tokens(text) for text in TEXTS], 0))
        audio, text = fusion.audio_embedding(*inputs[:2]), fusion.text_embedding(*inputs[2:])
        fused = fusion.fused(*inputs)
        if mode == "concat":
            assert torch.equal(fused, torch.cat([audio, text], dim=1))
        elif mode == "mean":
            assert torch.equal(fused, torch.stack([audio, text]).mean(dim=0))
        else:
            heads = [
                head.linear_out(torch.cat([2 * head.Wv(audio), 2 * head.Wv_reverse(text)], dim=1))
                for head in fusion.model.mult_attn_model.heads
            ]
            assert (fused - fusion.model.mult_attn_model.proj(torch.cat(heads, dim=1))).abs().max() < SAME


def test_coupled_multihead_attends_across_the_batch(tmp_path: Path):
    multihead = original(tmp_path, "multihead").model.mult_attn_model
    audio, text = torch.randn(2, 5, TINY.projection, generator=torch.Generator().manual_seed(0))
    heads = []
    for head in multihead.heads:
        values, reverse = head.Wv(audio), head.Wv_reverse(text)
        text_to_audio = scaled_dot_product_attention(head.norm(head.Wq(text)), head.norm(head.Wk(audio)), values)
        audio_to_text = scaled_dot_product_attention(head.Wq_reverse(audio), head.Wk_reverse(text), reverse)
        heads.append(head.linear_out(torch.cat([text_to_audio + values, audio_to_text + reverse], dim=1)))
    expected = multihead.proj(torch.cat(heads, dim=1))
    assert (multihead(audio, text, batch_coupled=True) - expected).abs().max() < SAME


def test_neighbours_matter_to_multihead_only_when_coupled(tmp_path: Path):
    multihead = original(tmp_path, "multihead")
    clips = [multihead.features(voice(seconds, 0)) for seconds in (0.3, 0.5)]
    tokens = [multihead.tokens(text) for text in TEXTS]
    batch = (*padded_batch(clips, 0.0), *padded_batch(tokens, 0))
    alone = torch.cat([multihead.logits(*clip, *text) for clip, text in zip(clips, tokens, strict=True)])
    assert (multihead.logits(*batch) - alone).abs().max() < SAME
    assert (multihead.logits(*batch, batch_coupled=True) - alone).abs().max() > 0.01
    first = multihead.logits(*clips[0], *tokens[0], batch_coupled=True)
    assert (first - alone[:1]).abs().max() < SAME


@pytest.mark.parametrize("mode", ["audio", "concat", "mean"])
def test_padding_and_neighbours_change_nothing(tmp_path: Path, mode: str):
    model = original(tmp_path, mode)
    clips = [model.features(voice(seconds, 0)) for seconds in (0.3, 0.5)]
    tokens = [] if mode == "audio" else [model.tokens(text) for text in TEXTS]
    batch = (*padded_batch(clips, 7.0), *(padded_batch(tokens, 0) if tokens else ()))
    alone = [model.logits(*clip, *(tokens[i] if tokens else ())) for i, clip in enumerate(clips)]
    assert (model.logits(*batch) - torch.cat(alone)).abs().max() < SAME


def test_an_adapter_halves_the_frames(tmp_path: Path):
    audio = original(tmp_path, "audio", config_overrides={"add_adapter": True, "output_hidden_size": 40})
    features, mask = audio.features(voice(0.5, 0))
    adapted = audio.model.wav2vec2_bert(features, attention_mask=mask).last_hidden_state
    assert adapted.shape == (1, math.ceil(features.shape[1] / 2), 40)
    expected = audio.model.projector(adapted).mean(dim=1)
    assert (audio.audio_embedding(features, mask) - expected).abs().max() < SAME


def test_text_mode_is_transformers_own_classifier(tmp_path: Path):
    text = original(tmp_path, "text")
    peer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "text").eval()
    inputs = text.tokens(TEXTS[0])
    assert (text.logits(ids=inputs[0], token_mask=inputs[1]) - peer(*inputs).logits).abs().max() < SAME
    probabilities = text.probabilities(text=TEXTS[0])
    assert probabilities.dtype == np.float32
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_multi_label_text_takes_a_sigmoid(tmp_path: Path):
    text = original(tmp_path, "text", problem_type="multi_label_classification")
    ids, mask = text.tokens(TEXTS[0])
    expected = 1 / (1 + np.exp(-text.logits(ids=ids, token_mask=mask)[0].numpy()))
    assert np.allclose(text.probabilities(text=TEXTS[0]), expected, atol=1e-6)


def test_long_texts_are_truncated(tmp_path: Path):
    long = "mañana " * 2 * MAX_TOKENS
    for mode in ("text", "concat"):
        model = original(tmp_path, mode)
        ids, mask = model.tokens(long)
        assert ids.shape == mask.shape == (1, MAX_TOKENS)
        probabilities = model.probabilities(waveform=voice(0.3, 0), text=long)
        assert np.isfinite(probabilities).all()


# What the weights are good for


@pytest.mark.slow
@pytest.mark.parametrize("size", [TINY, SMALL], ids=["tiny", "small"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("mode", AUDIO_MODES)
def test_weights_have_unit_gain(tmp_path: Path, mode: str, seed: int, size: Size):
    assert_unit_gain(original(tmp_path, mode, size, seed=seed))


@pytest.mark.full_size
@pytest.mark.parametrize("mode", ["audio", "concat"])
def test_weights_have_unit_gain_at_full_size(tmp_path: Path, mode: str):
    assert_unit_gain(original(tmp_path, mode, FULL))


def assert_unit_gain(model: TorchOriginal):
    """Activations and logits are of order one, and audio, text and every layer's place move a logit by over 0.01."""
    clip, other_clip = (model.features(voice(1.0, seed)) for seed in (0, 1))
    text, other_text = ((), ()) if model.mode == "audio" else (model.tokens(text) for text in TEXTS)
    logits = model.logits(*clip, *text)
    assert 0.3 < logits.std() < 3
    assert logits.softmax(dim=-1).max() < 0.95
    for states in model.audio_hidden_states(*clip):
        assert 0.5 < states.std() < 2

    def moved() -> float:
        return (model.logits(*clip, *text) - logits).abs().max().item()

    assert (model.logits(*other_clip, *text) - logits).abs().max() > 0.01
    if model.mode != "audio":
        assert (model.logits(*clip, *other_text) - logits).abs().max() > 0.01
    layers = model.model.wav2vec2_bert.encoder.layers
    for i in sorted({0, len(layers) // 2 - 1, len(layers) - 2}):
        layers[i], layers[i + 1] = layers[i + 1], layers[i]
        assert moved() > 0.01
        layers[i], layers[i + 1] = layers[i + 1], layers[i]
        swap_distance_embeddings(layers[i], layers[i + 1])
        assert moved() > 0.01
        swap_distance_embeddings(layers[i], layers[i + 1])
    assert moved() == 0
    if model.mode != "audio":
        blocks = model.text_encoder.encoder.layer
        blocks[0], blocks[1] = blocks[1], blocks[0]
        assert moved() > 0.01


def swap_distance_embeddings(layer: Any, other: Any):
    mine, theirs = layer.self_attn, other.self_attn
    mine.distance_embedding, theirs.distance_embedding = theirs.distance_embedding, mine.distance_embedding


def test_text_classifier_has_unit_gain(tmp_path: Path):
    model = original(tmp_path, "text")
    first, second = (model.probabilities(text=text) for text in TEXTS)
    assert first.max() < 0.95
    assert np.abs(first - second).max() > 0.01
    layers = model.model.roberta.encoder.layer
    layers[0], layers[1] = layers[1], layers[0]
    assert np.abs(model.probabilities(text=TEXTS[0]) - first).max() > 0.01
