"""Predict emotions from recordings and texts."""

from .batching import FRAME_BUCKETS, TOKEN_BUCKETS, bucket, pad_tokens, padded_size, repeat_first
from .chart import render_prediction, render_prediction_line
from .encoder_programs import encoder_steps
from .pipeline import EmotionPipeline, Prediction
from .predict import close, predict_emotion
from .scorer import Scorer, default_batch_size
from .timeline_run import TimelineConfig, make_timeline
from .warmup import render_warmup, warm_up

__all__ = [
    "FRAME_BUCKETS",
    "TOKEN_BUCKETS",
    "EmotionPipeline",
    "Prediction",
    "Scorer",
    "TimelineConfig",
    "bucket",
    "close",
    "default_batch_size",
    "encoder_steps",
    "make_timeline",
    "pad_tokens",
    "padded_size",
    "predict_emotion",
    "render_prediction",
    "render_prediction_line",
    "render_warmup",
    "repeat_first",
    "warm_up",
]
