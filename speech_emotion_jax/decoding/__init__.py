"""From a Whisper decoder's logits to text with times: the rules on what may be said next, the search for the most
probable tokens, the joining of overlapping windows of one recording (stitch), and the times of single words (words)."""
