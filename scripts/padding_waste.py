"""How much the length buckets make the encoder compute in vain, on the clips of a corpus.

    python scripts/padding_waste.py dataset-with-video-keys.csv

The CSV has start_time and end_time in milliseconds, as Spanish MEACorpus 2023 publishes them.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from speech_emotion_jax.audio.fbank import feature_frames
from speech_emotion_jax.inference.batching import FRAME_BUCKETS, padding_waste


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [(float(row["end_time"]) - float(row["start_time"])) / 1000 for row in rows]
    waste = padding_waste([feature_frames(int(each * 16_000)) for each in seconds], FRAME_BUCKETS)
    print(f"{len(rows)} clips, {sum(seconds) / 3600:.2f} h: {waste:.1%} more frames than the clips have")
    return 0


if __name__ == "__main__":
    sys.exit(main())
