"""Old place of `speech_emotion_jax.audio`. It will be removed in version 0.3."""
