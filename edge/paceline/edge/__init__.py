"""The device's side: drafters, draft length, modes of generation, the client. Needs no torch."""

from paceline.edge.client import Client, Generation
from paceline.edge.connection import SyncClient, SyncGeneration, TextClient, connect
from paceline.edge.request import (
    Event,
    GenerationRequest,
    LinkEvent,
    ProvisionalEvent,
    Report,
    RetractedEvent,
    TokensEvent,
)

__all__ = [
    "Client",
    "Event",
    "Generation",
    "GenerationRequest",
    "LinkEvent",
    "ProvisionalEvent",
    "Report",
    "RetractedEvent",
    "SyncClient",
    "SyncGeneration",
    "TextClient",
    "TokensEvent",
    "connect",
]
