"""What the endpoint says about what leaves the device is what the protocol has."""

from paceline.edge.serve.privacy import SENT_OFTEN, SENT_ONCE
from paceline.v1 import verifier_pb2 as pb


def test_every_field_that_is_sent_is_told(endpoint) -> None:
    """None is forgotten when the protocol grows, and none is told that is gone; programs and people can read it."""
    assert set(SENT_ONCE) == set(pb.Open.DESCRIPTOR.fields_by_name)
    assert set(SENT_OFTEN) == set(pb.Draft.DESCRIPTOR.fields_by_name)
    status, _, told = endpoint.ask("GET", "/privacy")
    assert (status, told["local_only"], told["to"]) == (200, False, "this process")
    assert {one["field"] for one in told["leaves_the_device"]} == {*SENT_ONCE, *SENT_OFTEN}
    status, headers, page = endpoint.ask("GET", "/privacy", headers={"Accept": "text/html,*/*"})
    assert headers["content-type"].startswith("text/html")
    assert all(name in page for name in SENT_ONCE)
    assert "://" not in page
