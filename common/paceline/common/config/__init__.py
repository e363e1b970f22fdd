"""Topology files: a chain of hops in YAML, checked before anything is opened."""

from paceline.common.config.checks import fingerprint_of, model_of
from paceline.common.config.errors import TopologyError
from paceline.common.config.loading import load_topology, parse_topology, topology_schema
from paceline.common.config.topology import DrafterSection, HopSection, Sampling, TargetSection, Topology

__all__ = [
    "DrafterSection",
    "HopSection",
    "Sampling",
    "TargetSection",
    "Topology",
    "TopologyError",
    "fingerprint_of",
    "load_topology",
    "model_of",
    "parse_topology",
    "topology_schema",
]
