"""What to pick next: processed laws, position-keyed noise, quantised laws, the drafter's choice, the
target's rows."""
