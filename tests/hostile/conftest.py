"""What the hostile tests are run against: the servers of the wire tests."""

from tests.wire.conftest import relay, serve

__all__ = ["relay", "serve"]
