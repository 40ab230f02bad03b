"""A byte stream as Arrow's CSV parser needs it: UTF-8 throughout, in blocks of full size.

The parser gives up on a malformed row that is not UTF-8, and on a block, cut short by a read, that holds no whole row.
"""

import codecs
import io
import re
from typing import IO, Any

STAND_IN = "\ufdd0"
"""A Unicode noncharacter, never part of a text: takes the place of bytes that are not UTF-8."""

_ESCAPED = re.compile("[\udc80-\udcff]+")  # how Python's `surrogateescape` holds bytes that are not UTF-8


class Utf8Stream(io.RawIOBase):
    """The bytes of `file`, then a newline and `last_row`; what is not UTF-8 becomes `STAND_IN`, run by run.

    A read returns all it was asked for unless the stream ends, however little the file returns at a time, but never
    ends between a carriage return and its newline.
    """

    def __init__(self, file: IO[bytes], *, last_row: str):
        super().__init__()
        self.damaged = False
        """Whether anything but UTF-8 was found so far."""
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._end = f"\n{last_row}\n"
        self._ready = b""

    def readable(self) -> bool:
        """True: the stream is for reading only."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, unless the stream ends before."""
        while len(self._ready) < len(buffer) and self._end:
            data = self._file.read(len(buffer))
            text = self._decoder.decode(data, final=not data)
            if not data:
                text, self._end = text + self._end, ""
            self._ready += self._encode(text)
        size = min(len(buffer), len(self._ready))
        if self._ready[size - 1 : size] == b"\r":  # the parser loses the newline that begins the next block
            size -= 1
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _encode(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            self.damaged = True
            return _ESCAPED.sub(STAND_IN, text).encode()
