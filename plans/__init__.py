"""The deciding floor: pure functions over numbers. No torch, and no image is read here."""
