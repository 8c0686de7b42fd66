"""Make the golden files with which the tests check this package without PyTorch.

    python scripts/make_goldens.py

Writes tests/goldens/demo.safetensors from the demo's checkpoint and one of its recordings, and tiny-random.safetensors
from a tiny RANDOM checkpoint of mode multihead and the same recording. Needs the extra `test`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.parity import ParityConfig, parity, render_parity
from tests.support.checkpoints import write_golden_checkpoint

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT / "tests" / "goldens"
DEMO = Path("speech_emotion_jax/demo_data")
RECORDING, TEXT = DEMO / "joy.flac", "No me lo puedo creer, ¡qué alegría!"


def main() -> int:
    """Write both golden files."""
    GOLDENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        random = write_golden_checkpoint(Path(folder) / "tiny-random")
        for name, checkpoint, mode in (("demo", DEMO / "checkpoint", "concat"), ("tiny-random", random, "multihead")):
            made = parity(
                ParityConfig(
                    Request(str(checkpoint), mode, "es"),
                    recordings=(str(RECORDING),),
                    texts=(TEXT,),
                    record=str(GOLDENS / f"{name}.safetensors"),
                )
            )
            print(render_parity(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
