"""Words as vectors: the frozen text encoder, and the bank of vectors of each model."""
