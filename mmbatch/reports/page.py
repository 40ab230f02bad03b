"""What the HTML pages share: their templates, pictures inside of a page, bars, durations and links."""

import base64
import posixpath
from collections.abc import Callable, Mapping
from urllib.parse import quote

import jinja2

from mmbatch.image_vectors import NPY_MAGIC
from mmbatch.storage import filesystem_of


def page_environment() -> jinja2.Environment:
    """The templates beside this module; whatever they are given is escaped, and what they are not given is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mmbatch.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(media_type: str, content: bytes) -> str:
    """A file as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def no_picture(image: bytes | None) -> str:
    """What stands where a thumbnail would be."""
    if image is None:
        return "no image"
    return "image given as a vector" if image.startswith(NPY_MAGIC) else "image cannot be read"


def bars(values: Mapping[str, float], text: Callable[[float], str]) -> list[tuple[str, str, float]]:
    """Name, text and length in 0..1 of each value, as bars that share one scale."""
    longest = max(map(abs, values.values()), default=0) or 1
    return [(name, text(value), abs(value) / longest) for name, value in values.items()]


def duration(seconds: float) -> str:
    """`4.2 s`, `1 min 05 s` or `1 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def relative_link(folder_uri: str, file_uri: str | None) -> str | None:
    """Address of a file in a page that lies in a folder; None where there is no file, or it lies in another store."""
    if file_uri is None:
        return None
    (here, folder), (there, file) = filesystem_of(folder_uri), filesystem_of(file_uri)
    if here != there or folder.split("/")[0] != file.split("/")[0]:
        return None
    return quote(posixpath.relpath(file, folder))
