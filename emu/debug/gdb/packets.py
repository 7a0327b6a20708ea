"""The packets of gdb's remote protocol: `$data#checksum`, acknowledgements, escapes.

Source: the gdb manual, appendix "Remote Serial Protocol", section "Overview".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

DATA_SIZE_MAX = 0x8000  # bytes of a packet's data, as they stand on the line
_ESCAPE, _ESCAPE_XOR = 0x7D, 0x20
_END_OF_DATA = re.compile(rb"[#$]")
_ESCAPED = frozenset(b"#$}*")  # `*` would begin a run length in what gdb receives


class Sign(Enum):
    """What is not a packet."""

    ACK = auto()
    NAK = auto()
    BROKEN = auto()  # a packet with a wrong checksum, or too long: it is to be sent again
    INTERRUPT = auto()  # the byte 3: Ctrl-C


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that came through well: its data, unescaped."""

    data: bytes


def frame(data: bytes) -> bytes:
    """``data`` as a packet; it is on the line as it is, see `escape`."""
    return b"$%s#%02x" % (data, sum(data) & 0xFF)


def escape(data: bytes) -> bytes:
    """Binary data as it may stand in a packet."""
    out = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            out += bytes((_ESCAPE, byte ^ _ESCAPE_XOR))
        else:
            out.append(byte)
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """The inverse; an escape without a byte behind it is dropped."""
    if _ESCAPE not in data:
        return data
    out = bytearray()
    following = iter(data)
    for byte in following:
        if byte == _ESCAPE:
            escaped = next(following, None)
            if escaped is None:
                break
            byte = escaped ^ _ESCAPE_XOR
        out.append(byte)
    return bytes(out)


class PacketReader:
    """Takes bytes as they come, gives packets and signs. Raises nothing for any bytes."""

    def __init__(self) -> None:
        self._data: bytearray | None = None  # of the packet under way
        self._checksum: bytearray | None = None  # its two digits, behind the `#`
        self._too_long = False

    def feed(self, received: bytes) -> list[Packet | Sign]:
        """What ``received`` completes, in order."""
        found: list[Packet | Sign] = []
        at = 0
        while at < len(received):
            event: Packet | Sign | None = None
            if self._data is None:
                event = self._outside(received[at])
            elif self._checksum is None:
                at = self._collect(received, at)
            else:
                self._checksum.append(received[at])
                event = self._end() if len(self._checksum) == 2 else None
            at += 1
            if event is not None:
                found.append(event)
        return found

    def _outside(self, byte: int) -> Sign | None:
        if byte == ord("$"):
            self._begin()
        elif byte == 3:
            return Sign.INTERRUPT
        elif byte == ord("+"):
            return Sign.ACK
        elif byte == ord("-"):
            return Sign.NAK
        return None  # anything else between packets is noise

    def _begin(self) -> None:
        self._data, self._checksum, self._too_long = bytearray(), None, False

    def _collect(self, received: bytes, start: int) -> int:
        """Take a packet's data up to the byte that ends it; the place of that byte."""
        assert self._data is not None
        found = _END_OF_DATA.search(received, start)
        end = found.start() if found else len(received)
        room = DATA_SIZE_MAX - len(self._data)
        self._too_long = self._too_long or end - start > room
        self._data += received[start : min(end, start + room)]
        if found and found[0] == b"#":
            self._checksum = bytearray()
        elif found:  # a `$` is never within a packet: the end of the last one was lost
            self._begin()
        return end

    def _end(self) -> Packet | Sign:
        assert self._data is not None and self._checksum is not None
        data, digits = bytes(self._data), bytes(self._checksum)
        self._data = self._checksum = None
        if self._too_long or digits.lower() != b"%02x" % (sum(data) & 0xFF):
            return Sign.BROKEN
        return Packet(unescape(data))
