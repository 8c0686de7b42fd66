"""Make the goldens that a machine without PyTorch is held against.

    python scripts/make_goldens.py

Writes `demo.safetensors` and `random.safetensors` to speech_emotion_jax/selfcheck/goldens, of the demo's checkpoint and
of the small RANDOM checkpoint of `selfcheck`, and tests/goldens/tiny-random.safetensors, of a tiny RANDOM checkpoint of
mode multihead. All are of one recording of the demo. Needs the extra `test`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from speech_emotion_jax.benchmarking import random_checkpoint
from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.parity import ParityConfig, parity, render_parity
from speech_emotion_jax.selfcheck.numbers import random_config
from tests.support.checkpoints import write_golden_checkpoint

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens"
SHIPPED = ROOT / "speech_emotion_jax" / "selfcheck" / "goldens"
DEMO = Path("speech_emotion_jax/demo_data")
RECORDING, TEXT = DEMO / "joy.flac", "No me lo puedo creer, ¡qué alegría!"


def main() -> int:
    """Record the three goldens and print the parity of each."""
    GOLDENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        small = random_checkpoint(random_config(), Path(folder)).published
        tiny = write_golden_checkpoint(Path(folder) / "tiny-random")
        for golden, checkpoint, mode in (
            (SHIPPED / "demo.safetensors", DEMO / "checkpoint", "concat"),
            (SHIPPED / "random.safetensors", small, "concat"),
            (GOLDENS / "tiny-random.safetensors", tiny, "multihead"),
        ):
            made = parity(
                ParityConfig(
                    Request(str(checkpoint), mode, "es"),
                    recordings=(str(RECORDING),),
                    texts=(TEXT,),
                    record=str(golden),
                )
            )
            print(render_parity(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
