"""The functions of the public API: plan, train, predict, evaluate. They print nothing."""
