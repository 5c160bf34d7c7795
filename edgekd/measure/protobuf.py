"""Protocol Buffers read field by field, as their wire format is published: no schema, no copies."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Message:
    """The fields of one message, by number.

    Raises:
        ValueError: the bytes are no message.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in _fields(memoryview(data)):
            self._fields.setdefault(number, []).append(value)

    def number(self, field: int) -> int:
        """The last integer of a field, 0 where there is none."""
        return next((v for v in reversed(self._fields.get(field, [])) if isinstance(v, int)), 0)

    def numbers(self, field: int) -> tuple[int, ...]:
        """All integers of a field, signed as int64, whether they are packed or not."""
        found: list[int] = []
        for value in self._fields.get(field, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return tuple(v - (1 << 64) if v >> 63 else v for v in found)

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return field in self._fields

    def data(self, field: int) -> bytes:
        """The last bytes of a field, b"" where there are none."""
        return bytes((self._bytes(field) or (b"",))[-1])

    def texts(self, field: int) -> tuple[str, ...]:
        """All texts of a field."""
        return tuple(bytes(v).decode() for v in self._bytes(field))

    def text(self, field: int) -> str:
        """The last text of a field, "" where there is none."""
        return (self.texts(field) or ("",))[-1]

    def messages(self, field: int) -> Iterator[Message]:
        """All messages of a field."""
        return (Message(v) for v in self._bytes(field))

    def message(self, field: int) -> Message:
        """The one message of a field.

        Raises:
            ValueError: there is none.
        """
        for found in self.messages(field):
            return found
        raise ValueError(f"field {field} is missing")

    def size(self, field: int) -> int:
        """Bytes of all values of a field as they lie in the file, without their tags and lengths."""
        return sum(len(v) for v in self._bytes(field))

    def _bytes(self, field: int) -> list[memoryview]:
        return [v for v in self._fields.get(field, []) if isinstance(v, memoryview)]


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field reaches beyond the end")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number without an end")
