"""Words to vectors: the frozen text encoder, and the bank of vectors that travels with a model."""
