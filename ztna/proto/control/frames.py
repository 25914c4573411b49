"""Frames of a control stream: a u32 big-endian length, then a body."""

from struct import Struct
from typing import Final

__all__ = ["MAX_FRAME_BYTES", "FrameReader", "frame"]

MAX_FRAME_BYTES: Final = 65536
_LENGTH: Final = Struct(">I")


def frame(body: bytes) -> bytes:
    """Return a body with its length in front."""
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Reassembles the frames of one stream and holds at most one incomplete frame.

    After a length above the limit no later frame can be found: `broken` is set and nothing is returned any more.
    """

    __slots__ = ("_buffer", "broken", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Args: max_frame_bytes: largest body taken; may be changed between two calls of `receive`."""
        self.max_frame_bytes = max_frame_bytes
        self.broken = False
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        """Size of the incomplete frame held."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes of the stream and return the bodies that are now complete."""
        buffer = self._buffer
        bodies: list[bytes] = []
        if self.broken:
            return bodies
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self.max_frame_bytes:
                self.broken = True
                buffer.clear()
                return bodies
            end = start + _LENGTH.size + length
            if end > len(buffer):
                break
            bodies.append(bytes(buffer[start + _LENGTH.size : end]))
            start = end
        del buffer[:start]
        return bodies
