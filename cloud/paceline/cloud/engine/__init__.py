"""The target's forward pass over many sessions at once; everything below knows tokens, not users or wires.

`base` is the seam (`Row` in, logit rows out), `paged` runs a Hugging Face model behind it, `table` is a
target with a known law for tests, and `conformance` is what every engine must pass. Importing this package
imports no torch."""

from paceline.cloud.engine.base import EngineConfig, Row, TargetEngine

__all__ = ["EngineConfig", "Row", "TargetEngine"]
