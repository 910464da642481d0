"""What validation cases teach: how to sample, how good the masks are, how sure the probabilities should be.

The only room that sees both inference and evaluation.
"""
