"""Messages nearly right: serialised protobuf messages with something changed, by field and by byte."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_WHOLE = (0, 1, 2, 3, 7, 12, 13, 14, 63, 64, 65, 255, 256, 1023, 1024, 1025, 2047, 2048, 2049)
_ODD_32 = (*_WHOLE, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_ODD_64 = (*_ODD_32, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_ODD_FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 100.0, 100.1, 1e-30, -1e-30, 3e38, -3e38, math.nan, math.inf, -math.inf,
)  # fmt: skip
_ODD_DOUBLES = (*_ODD_FLOATS, 5e-324, 1e-308, 1e308, -1e308)
_ODD_TEXTS = ("", "x", "x" * 64, "x" * 65, "\x00", "\x1b[2J", "é" * 40, "\u202e", "{0}%s", "../..", "\ud7ff")
_ODD_ENUMS = (-1, 0, 1, 2, 3, 4, 5, 6, 99, (1 << 31) - 1)
_LENGTHS = (1, 2, 3, 63, 64, 65, 66, 1024, 1025)
_UNKNOWN_FIELD = b"\xfa\x3f\x05other"
"""Number 1023, five bytes."""


class Mutator:
    """Damages messages.

    Args:
        dice: decides everything.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._odd: dict[int, Callable[[], Any]] = {
            FieldDescriptor.TYPE_UINT32: lambda: self._whole(_ODD_32, 32),
            FieldDescriptor.TYPE_UINT64: lambda: self._whole(_ODD_64, 64),
            FieldDescriptor.TYPE_FIXED64: lambda: self._whole(_ODD_64, 64),
            FieldDescriptor.TYPE_BOOL: lambda: dice.random() < 0.5,
            FieldDescriptor.TYPE_DOUBLE: lambda: dice.choice(_ODD_DOUBLES),
            FieldDescriptor.TYPE_FLOAT: lambda: dice.choice(_ODD_FLOATS),
            FieldDescriptor.TYPE_STRING: lambda: dice.choice(_ODD_TEXTS),
            FieldDescriptor.TYPE_BYTES: lambda: dice.randbytes(dice.choice((0, 1, 15, 16, 17, 200))),
            FieldDescriptor.TYPE_ENUM: lambda: dice.choice(_ODD_ENUMS),
        }

    def mutated(self, message: Message, spare: bytes = b"") -> bytes:
        """The bytes of a message with one to three things changed; sometimes with none, sometimes no message at all.

        Args:
            spare: another message's bytes, to splice in.
        """
        dice = self._dice
        how = dice.random()
        if how < 0.3:
            return message.SerializeToString()
        if how < 0.75:
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                self._change(message)
            return message.SerializeToString()
        if how < 0.97:
            return self._damaged(message.SerializeToString(), spare)
        return dice.randbytes(dice.randrange(80))

    # --- by field -----------------------------------------------------------------------------------------------------

    def _change(self, message: Any) -> None:
        """Give one field of the message, or of one within it, another value; fields not set are fields too."""
        dice = self._dice
        within = [
            value for field, value in message.ListFields() if field.message_type and not field.is_repeated
        ]
        if within and dice.random() < 0.85:
            self._change(dice.choice(within))
            return
        fields = message.DESCRIPTOR.fields
        if not fields:
            return
        field = dice.choice(fields)
        if field.is_repeated:
            self._change_repeated(message, field)
        elif field.message_type:
            getattr(message, field.name).SetInParent()
        elif dice.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, self._odd[field.type]())

    def _change_repeated(self, message: Any, field: FieldDescriptor) -> None:
        dice, values = self._dice, getattr(message, field.name)
        if field.message_type:
            values.add()
            return
        odd = self._odd[field.type]
        match dice.randrange(7):
            case 0:
                message.ClearField(field.name)
            case 1:
                values.extend([odd()])
            case 2:
                values.extend([odd()] * dice.choice(_LENGTHS))
            case 3 if values:
                values[dice.randrange(len(values))] = odd()
            case 4 if values:
                del values[dice.randrange(len(values)) :]
            case 5:
                values.extend(values[:64])
            case _:
                shuffled = list(values)
                dice.shuffle(shuffled)
                message.ClearField(field.name)
                values.extend(shuffled)

    def _whole(self, odd: Sequence[int], num_bits: int) -> int:
        return self._dice.choice(odd) if self._dice.random() < 0.8 else self._dice.getrandbits(num_bits)

    # --- by byte ------------------------------------------------------------------------------------------------------

    def _damaged(self, data: bytes, spare: bytes) -> bytes:
        dice, found = self._dice, bytearray(data)
        start = dice.randrange(len(found) + 1)
        end = min(start + dice.choice((1, 1, 2, 8, 40)), len(found))
        match dice.randrange(8):
            case 0:
                del found[start:]
            case 1:
                del found[start:end]
            case 2:
                found[start:start] = dice.randbytes(dice.randrange(1, 9))
            case 3:
                found[end:end] = found[start:end] * dice.choice((1, 2, 30))
            case 4:
                found += spare
            case 5:
                found += _UNKNOWN_FIELD
            case 6:
                found += struct.pack("<B", dice.randrange(256)) * dice.randrange(1, 12)
            case _:
                for _ in range(dice.randrange(1, 4)):
                    if found:
                        found[dice.randrange(len(found))] = dice.randrange(256)
        return bytes(found)
