"""The doing floor: imaging, preprocessing, data, text, networks, diffusion, training, inference, evaluation."""
