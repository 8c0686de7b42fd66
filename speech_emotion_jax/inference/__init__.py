"""From recordings and texts to probabilities."""

from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, bucket, filled, pad_tokens
from .encoder_programs import encoder_steps
from .pipeline import EmotionPipeline, Prediction
from .predict import close, predict_emotion
from .scorer import Scorer, clips_at_once
from .warmup import render_warmup, warm_up

__all__ = [
    "FRAME_BUCKETS",
    "TOKEN_BUCKETS",
    "EmotionPipeline",
    "Prediction",
    "Scorer",
    "bucket",
    "clips_at_once",
    "close",
    "encoder_steps",
    "filled",
    "pad_tokens",
    "predict_emotion",
    "render_warmup",
    "warm_up",
]
