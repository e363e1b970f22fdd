"""The verifier: target engine, scheduler, sessions, gRPC service."""
