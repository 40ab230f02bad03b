import io
import pickle
import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmbatch.image_headers import exif_orientation, gif_size, image_format, webp_size
from mmbatch.images import ImageError, check_image, open_rgb

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP"]
ORIENTATION = 0x0112


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width=96, height=64, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def reason_of(function, blob):
    try:
        function(blob)
    except ImageError as error:
        return error.reason
    return None


def assert_rejected(blob, reason, match):
    for function in (open_rgb, check_image):
        with pytest.raises(ImageError, match=match) as caught:
            function(blob)
        assert caught.value.reason == reason


def png_of(width, height, data, *, bits=8, colour=2):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png_of_16_bits(*pixel):
    """A PNG of 3 x 2 equal pixels with 16 bits in each channel, which Pillow itself cannot write in colour."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[len(pixel)]
    row = b"\0" + 3 * struct.pack(f">{len(pixel)}H", *pixel)
    return png_of(3, 2, 2 * row, bits=16, colour=colour)


def huge(kind):
    """A file of a few bytes whose header claims 65,000 x 10,000 pixels, or the most its format can say."""
    if kind == "PNG":
        return png_of(65_000, 10_000, b"\0")
    blob = bytearray(encode(photo(), kind))
    if kind == "JPEG":
        start = blob.index(b"\xff\xc0")
        struct.pack_into(">HH", blob, start + 5, 10_000, 65_000)
    elif kind == "GIF":
        struct.pack_into("<HH", blob, 6, 65_000, 10_000)
    elif kind == "BMP":
        struct.pack_into("<ii", blob, 18, 65_000, 10_000)
    else:
        struct.pack_into("<HH", blob, 26, 16_383, 16_383)
    return bytes(blob)


@pytest.mark.parametrize("kind", FORMATS)
def test_decodes_every_allowed_format_to_rgb(kind):
    blob = encode(photo(), kind)
    image = open_rgb(blob)
    assert (image.mode, image.size) == ("RGB", (96, 64))
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(photo(), dtype=int)).mean() < 12
    check_image(blob)


@pytest.mark.parametrize("kind", FORMATS)
def test_one_pixel(kind):
    blob = encode(Image.new("RGB", (1, 1), (0, 0, 0)), kind)
    assert open_rgb(blob).size == (1, 1)
    assert open_rgb(blob, target=224).size == (1, 1)
    check_image(blob)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(10_000, 1), (1, 10_000)])
def test_a_line_of_pixels(kind, size):
    blob = encode(Image.new("RGB", size, (200, 100, 50)), kind)
    image = open_rgb(blob, target=224)
    assert image.size == size
    assert np.abs(np.asarray(image, int) - (200, 100, 50)).max() <= 8
    check_image(blob)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = open_rgb(encode(Image.new("RGB", (8, 8), "white").convert(mode), kind))
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 250


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.full((4, 4), 0x8000, dtype=np.uint16)
    assert np.unique(np.asarray(open_rgb(encode(Image.fromarray(grey), "PNG")))).tolist() == [0x80]


def test_colours_of_a_cmyk_jpeg_are_not_inverted():
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    blob = encode(ink, "JPEG", quality=95)
    assert Image.open(io.BytesIO(blob)).mode == "CMYK"
    assert open_rgb(blob).getpixel((8, 8)) == pytest.approx((0, 255, 255), abs=6)


@pytest.mark.parametrize(
    ("pixel", "rgb"),
    [
        ((0x8000,), (0x80, 0x80, 0x80)),
        ((0x8000, 0xFFFF), (0x80, 0x80, 0x80)),
        ((0xFF00, 0x8000, 0x0100), (0xFF, 0x80, 0x01)),
        ((0xFF00, 0x8000, 0x0100, 0xFFFF), (0xFF, 0x80, 0x01)),
        ((0xFF00, 0x8000, 0x0100, 0), (0xFF, 0xFF, 0xFF)),
    ],
)
def test_sixteen_bit_png_of_every_kind(pixel, rgb):
    blob = png_of_16_bits(*pixel)
    image = open_rgb(blob)
    assert (image.mode, image.size, image.getcolors()) == ("RGB", (3, 2), [(6, rgb)])
    check_image(blob)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composited_on_white(mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert np.asarray(open_rgb(encode(image, "PNG", **options))).min() == 255


def test_transparent_colour_of_an_opaque_mode_is_composited_too():
    blob = encode(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert np.asarray(open_rgb(blob)).min() == 255


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    image = open_rgb(encode(red, kind, save_all=True, append_images=[blue], duration=100))
    assert image.getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_stands_the_image_upright(kind, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores an upright image so oriented
    upright = Image.new("RGB", (64, 32), "black")
    upright.paste("white", (0, 0, 16, 8))  # a white mark at the top left
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = open_rgb(encode(stored, kind, exif=exif))
    assert image.size == (64, 32)
    assert image.getpixel((4, 3))[0] > 200
    assert max(image.getpixel(corner)[0] for corner in ((60, 3), (4, 28), (60, 28))) < 60


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x1a\x01\x05\0\1\0\0\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", ORIENTATION, 3, 1, 99, 0),
    ],
)
def test_broken_exif_neither_warns_nor_fails(exif):
    blob = encode(photo(), "JPEG", exif=exif)
    assert open_rgb(blob).size == (96, 64)
    assert exif_orientation(exif) == 1


def test_target_decodes_a_jpeg_smaller_but_never_below_it():
    blob = encode(photo(1000, 400), "JPEG")
    assert open_rgb(blob, target=100).size == (250, 100)
    assert open_rgb(blob, target=101).size == (500, 200)
    assert open_rgb(blob, target=50).size == (125, 50)
    assert open_rgb(blob, target=10).size == (125, 50)  # 1/8 is the strongest reduction
    assert open_rgb(blob, target=2000).size == (1000, 400)


def test_target_holds_after_orientation_and_is_ignored_where_a_format_cannot_scale():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert open_rgb(encode(photo(1000, 400), "JPEG", exif=exif), target=100).size == (100, 250)
    assert open_rgb(encode(photo(1000, 400), "PNG"), target=100).size == (1000, 400)


def test_empty():
    assert_rejected(b"", "image_empty", "zero bytes")


@pytest.mark.parametrize("blob", [b"<html>not found</html>", b"II*\0" + b"\0" * 100, b"%PDF-1.7", b"\0" * 100])
def test_unknown_format(blob):
    assert_rejected(blob, "image_unknown_format", "expected JPEG, PNG, WEBP, GIF, BMP")


@pytest.mark.parametrize("kind", FORMATS)
def test_too_many_pixels_are_refused_by_the_header(kind):
    assert_rejected(huge(kind), "image_too_large", f"{kind} of .* at most 64,000,000")


def test_gif_frame_larger_than_its_screen_is_refused():
    blob = bytearray(encode(photo(), "GIF"))
    descriptor = blob.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 96, 64))
    struct.pack_into("<HH", blob, descriptor + 5, 10_000, 10_000)
    assert_rejected(bytes(blob), "image_too_large", "10000 x 10000")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated(kind, share):
    blob = encode(photo(480, 320), kind)
    assert_rejected(blob[: max(12, int(len(blob) * share))], "image_truncated", kind)


def test_truncated_by_its_last_byte_in_a_progressive_jpeg():
    assert_rejected(encode(photo(), "JPEG", progressive=True)[:-1], "image_truncated", "JPEG")


def test_check_and_decoding_agree_on_damaged_files():
    generator = random.Random(0)
    seeds = [encode(photo(), kind) for kind in FORMATS] + [encode(photo().convert("P"), "PNG", transparency=3)]
    reasons = set()
    for _ in range(600):
        blob = bytearray(generator.choice(seeds))
        for _ in range(generator.choice([1, 3])):
            blob[generator.randrange(min(len(blob), generator.choice([64, 100_000])))] = generator.randrange(256)
        reason = reason_of(open_rgb, bytes(blob))
        assert reason == reason_of(check_image, bytes(blob))
        reasons.add(reason)
    assert reasons == {None, "image_truncated", "image_unknown_format", "image_too_large"}


def test_threads_do_not_disturb_each_other():
    good = encode(photo(240, 160), "JPEG")
    blobs = [good if number % 2 else good[:-50] for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda blob: reason_of(open_rgb, blob), blobs))
    assert reasons == [None if number % 2 else "image_truncated" for number in range(64)]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("image_empty", "zero bytes")))
    assert (error.reason, str(error)) == ("image_empty", "zero bytes")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_webp_size_of_each_layout(options):
    assert webp_size(encode(photo(), "WEBP", **options)) == (96, 64)


def test_sizes_of_cut_headers_are_unknown():
    assert webp_size(encode(photo(), "WEBP")[:24]) is None
    assert gif_size(encode(photo(), "GIF")[:20]) is None
    assert image_format(b"RIFF\0\0\0\0WAVE") is None
