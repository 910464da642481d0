"""From the fingerprint of a data set to its plan: rules, network, memory, and the reason of each decision."""
