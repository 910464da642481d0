"""The report: one HTML file with data, plan, training, scores, pictures and a 3D viewer. It opens without a network."""
