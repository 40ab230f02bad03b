"""What the HTML pages share: their templates, and pictures inside of a page."""

import base64

import jinja2

from mmbatch.image_vectors import NPY_MAGIC


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
