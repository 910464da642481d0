"""The networks, from small blocks to `model.build_model(plan)`, which assembles them in one visible place."""
