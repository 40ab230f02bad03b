"""Decodes product images safely: limits come from the header, before any pixel is allocated."""

import io
import struct
import zlib

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from mmbatch.image_headers import exif_orientation, gif_size, image_format, webp_size
from mmbatch.image_vectors import NPY_MAGIC

MAX_PIXELS = 64_000_000
"""Largest width x height that is decoded: 256 MB as RGBA. A PNG of 231 KB can hold ten times as much."""

MAX_IMAGE_BYTES = 32 << 20
"""A larger image file is not used; product images are 50 to 220 KB."""

_EXIF = b"Exif\0\0"
_CHECK_SIDE = 1  # smallest side asked of a check: the JPEG decoder's strongest reduction, 1/8
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_SIZES = {"WEBP": webp_size, "GIF": gif_size}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """An image that cannot be used; the text says what was found, for a person."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        """Reason code: `image_empty`, `image_unknown_format`, `image_is_vector`, `image_too_large`, `image_truncated`,
        or, where a vector came in its place, `image_vector_width`, `image_vector_not_finite`, or, where the image had
        to be fetched, `image_missing`, `image_unreadable`, `image_forbidden`, `image_http_status`,
        `image_timeout`, and, where it was fetched again, `image_changed`."""

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, str(self))


def open_rgb(blob: bytes, *, target: int | None = None) -> Image.Image:
    """Decode an image file to upright, opaque RGB, uint8 `[height, width, 3]`.

    Formats: JPEG, PNG, WebP, GIF, BMP; the first frame of an animation. Transparency is composited on white, 16-bit
    grey scaled to 8 bits, CMYK converted without its colour profile, EXIF orientation applied. `target` is the
    smallest side wanted, in pixels: a JPEG is then decoded at 1/2, 1/4 or 1/8 as long as both sides stay at least
    `target` (DCT scaling, which is also several times faster); other formats ignore it. Raises `ImageError`.
    """
    image = _open(blob)
    try:
        orientation = exif_orientation(_exif(blob) if image.format == "JPEG" else image.info.get("exif", b""))
        _load(image, target=target)
        rgb = _to_rgb(image)
    except _BROKEN as error:
        raise ImageError("image_truncated", _broken(image.format, blob, error)) from error
    return rgb.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else rgb


def check_image(blob: bytes) -> None:
    """Raise the `ImageError` that `open_rgb` would raise, at the least cost: a JPEG is decoded at 1/8."""
    image = _open(blob)
    try:
        _load(image, target=_CHECK_SIDE)
    except _BROKEN as error:
        raise ImageError("image_truncated", _broken(image.format, blob, error)) from error


def _open(blob: bytes) -> ImageFile.ImageFile:
    """The file with its header read, nothing decoded, its size within limits."""
    if not blob:
        raise ImageError("image_empty", "the image has zero bytes")
    name = image_format(blob)
    if blob.startswith(NPY_MAGIC):
        raise ImageError("image_is_vector", f"a vector (.npy), not a photo; expected {', '.join(_PLUGINS)}")
    if name is None:
        raise ImageError("image_unknown_format", f"starts with {blob[:8]!r}; expected {', '.join(_PLUGINS)}")
    if name in _SIZES:
        size = _SIZES[name](blob)
        if size is None:
            raise ImageError("image_truncated", _broken(name, blob, "its header is cut or unreadable"))
        _check_size(name, size)
    if name == "JPEG":
        blob = blob.replace(_EXIF, _EXIF.lower())  # hidden from Pillow, which parses it and warns
    try:
        image = _PLUGINS[name](io.BytesIO(blob))
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", str(error)) from error
    except _BROKEN as error:
        raise ImageError("image_truncated", _broken(name, blob, error)) from error
    _check_size(name, image.size)
    return image


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError("image_too_large", f"{name} of {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")


def _load(image: ImageFile.ImageFile, *, target: int | None) -> None:
    if target is not None:
        image.draft(image.mode, (target, target))
    image.load()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _exif(blob: bytes) -> bytes:
    """EXIF data of a JPEG: its segment is at most 64 KiB and stands before the image data."""
    start = blob.find(_EXIF, 0, 1 << 17)
    return blob[start : start + (1 << 16)] if start >= 0 else b""


def _broken(name: str | None, blob: bytes, error: Exception | str) -> str:
    return f"{name} of {len(blob):,} bytes is truncated or corrupt: {error}"
