"""The equations of the diffusion process, and nothing else."""
