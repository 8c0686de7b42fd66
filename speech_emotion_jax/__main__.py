"""Run the command line as `python -m speech_emotion_jax`."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
