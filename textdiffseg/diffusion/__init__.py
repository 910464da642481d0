"""The equations of the diffusion process: noise schedule, DDIM sampling, losses."""
