"""Links, clocks and models that can be had to order, for tests, benchmarks and plans."""
