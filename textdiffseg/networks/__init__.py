"""The networks: small blocks, the modules made of them, and `model.build_model(plan)`, which assembles the model."""
