"""What an image file says about itself before anything is decoded: format, canvas size, orientation.

Pillow allocates the canvas of a WebP and grows that of a GIF while it opens the file, so their sizes are read here
first; orientation is read here because Pillow warns, process-wide, about EXIF data it cannot parse.
"""

import re
import struct

_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<WEBP>RIFF....WEBP)|(?P<BMP>BM)", re.S
)
_ORIENTATION_TAG = 0x0112  # TIFF 6.0 / EXIF 2.3, section 4.6.4


def image_format(blob: bytes) -> str | None:
    """`JPEG`, `PNG`, `GIF`, `WEBP` or `BMP` by the file's first bytes; None for anything else."""
    found = _MAGIC.match(blob)
    return found.lastgroup if found else None


def webp_size(blob: bytes) -> tuple[int, int] | None:
    """Canvas (width, height) in pixels of a WebP file (RFC 9649); None when the header is cut or unknown."""
    kind, body = blob[12:16], blob[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def gif_size(blob: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels that hold a GIF's screen and its first frame; None when the file is cut before it."""
    try:
        width, height, flags = struct.unpack_from("<HHB", blob, 6)
        at = 13 + _colour_table(flags)
        while blob[at] == 0x21:  # extension: label, then sub-blocks up to an empty one
            at += 2
            while blob[at]:
                at += 1 + blob[at]
            at += 1
        if blob[at] != 0x2C:
            return None
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", blob, at + 1)
    except (IndexError, struct.error):
        return None
    return max(width, left + frame_width), max(height, top + frame_height)


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def exif_orientation(exif: bytes) -> int:
    """Orientation 1 to 8 from EXIF data (with or without its `Exif` prefix); 1, upright, when it says nothing valid."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, directory + 2 + 12 * entry)
            if (tag, kind, count) == (_ORIENTATION_TAG, 3, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # the directory is cut: a file without a readable orientation is shown as it is stored
    return 1
