"""The command `speech-emotion-jax`: a parser, and one file for each group of verbs."""
