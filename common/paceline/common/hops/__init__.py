"""Links between tiers: gRPC, or a direct call in one process. Each carries the same messages the same way."""
