"""Measure the time and peak memory of converting, loading and predicting with a checkpoint of the published size.

    python scripts/measure_full_size.py FOLDER [--seconds 10]

Makes a concat checkpoint of 0.58 B parameters and a BETO-sized text encoder in FOLDER, in the published layout. The
weights are RANDOM and as costly as real ones. Each step runs in a process of its own. Needs the extra `test`, 9 GB of
disk and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

STEPS = {
    "convert": """
from pathlib import Path
from speech_emotion_jax.checkpoints import Request, open_published
from speech_emotion_jax.convert.engine import convert
request = Request(sys.argv[1] + "/model", mode="concat", language="es", text_encoder=sys.argv[1] + "/text")
convert(open_published(request), Path(sys.argv[1] + "/converted"))
""",
    "load": """
from speech_emotion_jax import EmotionPipeline
pipeline = EmotionPipeline.from_pretrained(sys.argv[1] + "/converted")
report("loaded")
import numpy as np
noise = np.random.default_rng(0).normal(size=int(16_000 * float(sys.argv[2]))).astype(np.float32) * 0.1
clip = {"audio": {"array": noise, "sampling_rate": 16_000}, "text": "un texto cualquiera"}
pipeline.predict([clip])
report("first prediction, compilation included")
pipeline.predict([clip])
report("second prediction")
""",
    "export": """
from pathlib import Path
from speech_emotion_jax.convert.engine import write_safetensors
write_safetensors(Path(sys.argv[1] + "/converted"), Path(sys.argv[1] + "/back"))
""",
}
PREAMBLE = """
import json, logging, resource, sys, time
logging.disable(logging.WARNING)
start = time.perf_counter()
def report(what):
    global start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step": what, "seconds": time.perf_counter() - start, "peak_bytes": peak}), flush=True)
    start = time.perf_counter()
"""


def main() -> None:
    """Make the checkpoint, run all steps and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the clip in seconds")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    make_checkpoint(folder)
    size = sum(path.stat().st_size for part in ("model", "text") for path in (folder / part).glob("*.safetensors"))
    print(f"{platform.machine()}, {processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"checkpoint: {size / 1e9:.2f} GB of random weights; clip: {options.seconds} s")
    for name, code in STEPS.items():
        script = f"{PREAMBLE}{code}" + ("" if name == "load" else f"report({name!r})\n")
        command = [sys.executable, "-W", "ignore", "-c", script, str(folder), str(options.seconds)]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            step = json.loads(line)
            ratio = step["peak_bytes"] / size
            print(
                f"{step['step']:40} {step['seconds']:7.1f} s   peak {step['peak_bytes'] / 1e9:5.2f} GB = {ratio:.2f} x"
            )
    same = all(
        (folder / a).read_bytes() == (folder / b).read_bytes()
        for a, b in (
            ("model/model.safetensors", "back/model.safetensors"),
            ("text/model.safetensors", "back/text_encoder/model.safetensors"),
        )
    )
    print(f"exported files equal their sources byte for byte: {same}")


def make_checkpoint(folder: Path) -> None:
    """Write the random checkpoint and its text encoder."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.support.checkpoints import FULL, write_audio_checkpoint, write_bert

    start = time.perf_counter()
    write_audio_checkpoint(folder / "model", "concat", "es", size=FULL)
    write_bert(folder / "text", "es", size=FULL)
    print(f"made the random checkpoint in {time.perf_counter() - start:.0f} s")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 12e6


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
