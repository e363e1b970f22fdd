"""A hop between two others: a verifier to the one below, a drafter to the one above, and no third thing."""
