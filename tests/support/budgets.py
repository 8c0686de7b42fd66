"""The parity budgets.

They are stated once, here. They are not loosened to make a test pass: a breach has a cause, and that is mended.
"""

# Against the PyTorch classes, float32 on the CPU.
FEATURE_BUDGET = 1e-3  # absolute, on features of standard deviation 1; see test_features for what limits it
LAYER_BUDGET = 1e-5  # relative to the layer's largest value, from identical features
LOGIT_BUDGET = 1e-4  # absolute, at full size, from identical features
PROBABILITY_BUDGET = 1e-3  # absolute, from the waveform
# Against ourselves: a clip alone, and the same clip in a padded batch.
BATCH_BUDGET = 1e-5  # absolute, on probabilities
