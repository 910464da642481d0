"""The recipes of the public API: each a plain function with typed arguments and a typed result. Nothing is printed."""
