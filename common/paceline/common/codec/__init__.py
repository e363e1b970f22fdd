"""The only package that knows both the dataclasses and their protobuf form.

Decoding checks *shape* (one payload, known enums, arrays of matching length) and raises errors of
`paceline.common.errors`; whether values make sense for a given target is `paceline.common.session.limits`' business.
"""

from paceline.common.codec.padded import RequestWriter, ResponseWriter
from paceline.common.codec.requests import decode_request, describe_request, encode_request, parse_request
from paceline.common.codec.responses import (
    decode_description,
    decode_response,
    encode_description,
    encode_response,
    parse_response,
)

__all__ = [
    "RequestWriter",
    "ResponseWriter",
    "decode_description",
    "decode_request",
    "decode_response",
    "describe_request",
    "encode_description",
    "encode_request",
    "encode_response",
    "parse_request",
    "parse_response",
]
