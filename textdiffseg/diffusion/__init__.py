"""The equations of the diffusion process: noise schedule, DDIM sampling, the loss of a latent."""
