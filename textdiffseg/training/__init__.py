"""Training: the objectives, one optimiser step (`optimise`), the loop (`loop`), its files (`checkpoint`, `log`)."""
