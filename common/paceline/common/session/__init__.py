"""The two ends of a generation as pure state machines: messages in, messages out; no I/O, no clock, no dice.

gRPC, in-process and simulated transports drive the same machines, so every rule can be tested without a socket.
"""

from paceline.common.session.edge import Commit, EdgePhase, EdgeSession
from paceline.common.session.limits import Limits, check_draft, check_open
from paceline.common.session.relay import RelaySession
from paceline.common.session.steered import SteeredSession
from paceline.common.session.steering import Answer, Steer, Steered, Written
from paceline.common.session.verifier import VerifierPhase, VerifierSession, Work

__all__ = [
    "Answer",
    "Commit",
    "EdgePhase",
    "EdgeSession",
    "Limits",
    "RelaySession",
    "Steer",
    "Steered",
    "SteeredSession",
    "VerifierPhase",
    "VerifierSession",
    "Work",
    "Written",
    "check_draft",
    "check_open",
]
