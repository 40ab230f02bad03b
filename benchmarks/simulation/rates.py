"""Every rate of the simulation, with its unit and where it comes from.

Processor seconds are of one core of the machine that `benchmarks/RESULTS.md` was measured on.
"""

from dataclasses import dataclass
from typing import Literal

from mmbatch.errors import InputError

Kind = Literal["measured", "published", "assumed"]

_DRIVER = "benchmarks.driver"
_MEASURE = "benchmarks.simulation.measure"
_START = _MEASURE + " --rows 1000"
_NIGHTS = "benchmarks.nights, real encoders: the small catalog of 4,188 products"
_AWS = "docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html"


@dataclass(frozen=True)
class Rate:
    """One number."""

    value: float
    unit: str
    kind: Kind
    source: str
    """The command that measured it, the page that published it, or why it was assumed."""

    def __post_init__(self) -> None:
        if not self.value > 0:
            raise InputError(f"rate of {self.value} {self.unit} from {self.source}: must be above 0")


RATES = {
    # starting
    "ingest start": Rate(7.6, "s", "measured", _START + ", on one core and on two: what does not depend on them"),
    "ingest start, shared": Rate(5.7, "core s", "measured", _START + ": what two cores share"),
    "worker": Rate(5.8, "core s/process", "measured", _MEASURE + ": 10,000 sample rows in ten parts, not 1,000 in one"),
    "extract start": Rate(15.3, "s", "measured", _START + ", on one core and on two: what does not depend on them"),
    "extract start, shared": Rate(29.8, "core s", "measured", _START + ": what two cores share"),
    "planning start": Rate(7.2, "s", "measured", "benchmarks.nights: a process that imports what a night does"),
    "ray start": Rate(13.0, "s", "measured", "benchmarks.submission: an ingest of 100 products less its dry run"),
    "encoder start": Rate(52.8, "s", "measured", _NIGHTS + ": until the first unit is encoded"),
    "unit": Rate(0.146, "core s/unit", "measured", _MEASURE + ": what remains of 1,000,000 texts on one core"),
    "dispatch": Rate(5e-3, "s/unit", "assumed", "a unit through Ray Data's loop on the driver"),
    # intake, by row
    "stage text": Rate(9.3e-6, "core s/row", "measured", _DRIVER),
    "stage image": Rate(1.21e-4, "core s/row", "measured", _DRIVER),
    "merge text": Rate(1.11e-5, "core s/row", "measured", _DRIVER),
    "merge image": Rate(5.1e-5, "core s/row", "measured", _DRIVER),
    "split": Rate(7.0e-6, "core s/labelled row", "measured", _DRIVER),
    "staged footer": Rate(2.1e-5, "core s/row group", "measured", _DRIVER),
    # the tables' logs, by file that a table has
    "snapshot": Rate(5.3e-6, "core s/file", "measured", _DRIVER + ": 100,000 files"),
    "commit": Rate(4.8e-6, "core s/file", "measured", _DRIVER + ": 100,000 files"),
    "commit alone": Rate(1.1e-2, "core s/commit", "measured", _DRIVER + ": 1,000 files, less their share"),
    "entry": Rate(311, "bytes/file", "measured", _DRIVER + ": Python's objects of a snapshot"),
    # planning and publishing, by product
    "stale": Rate(1.8e-6, "core s/content", "measured", _DRIVER + ": two encoders"),
    "sorting": Rate(3.9e-7, "core s/content", "measured", _DRIVER),
    "outdated": Rate(1.4e-6, "core s/product", "measured", _DRIVER),
    "publish": Rate(3.5e-6, "core s/product", "measured", _DRIVER),
    # encoding on processors, MiniLM and EfficientNet-Lite0
    "read": Rate(1.3 / 4188, "core s/product", "measured", _NIGHTS),
    "prepare": Rate(48.8 / 4188, "core s/product", "measured", _NIGHTS),
    "encode": Rate(214.9 / 4188, "core s/product", "measured", _NIGHTS),
    "encode cheapest": Rate(4.1e-5, "core s/text", "measured", _DRIVER),
    # fusing
    "predict": Rate(2 / 7912, "core s/product", "measured", "benchmarks.prediction: 100,000 products"),
    "train head": Rate(197e-6, "s/row and epoch", "measured", "benchmarks.head_memory: 900,000 less 300,000 products"),
    # encoding on a GPU: no GPU was at hand
    "image 3090": Rate(
        8163,
        "images/s",
        "published",
        "timm results/benchmark-infer-amp-nhwc-pt210-cu121-rtx3090.csv, tf_efficientnet_lite0",
    ),
    "text V100": Rate(14_200, "texts/s", "published", "sbert.net, pretrained models: all-MiniLM-L6-v2 on a V100"),
    "bandwidth 3090": Rate(936, "GB/s", "published", "NVIDIA, GeForce RTX 3090"),
    "bandwidth V100": Rate(900, "GB/s", "published", "NVIDIA, Tesla V100"),
    "bandwidth L4": Rate(300, "GB/s", "published", "NVIDIA, L4"),
    "bandwidth H100": Rate(3350, "GB/s", "published", "NVIDIA, H100 SXM"),
    # the object store
    "put limit": Rate(3_500, "requests/s", "published", _AWS + ": of one prefix"),
    "get limit": Rate(5_500, "requests/s", "published", _AWS + ": of one prefix"),
    "latency": Rate(0.1, "s/request", "published", _AWS + ": 100 to 200 ms, the lower end"),
    "put price": Rate(5e-6, "$/request", "published", "aws.amazon.com/s3/pricing, us-east-1, standard"),
    "get price": Rate(4e-7, "$/request", "published", "aws.amazon.com/s3/pricing, us-east-1, standard"),
    "commit requests": Rate(6, "requests/commit", "assumed", "log listed, checkpoint and newest entries read, written"),
    "open requests": Rate(3, "requests/table", "assumed", "log listed, checkpoint and newest entry read"),
    "file requests": Rate(2, "requests/file", "assumed", "footer and columns, one after the other"),
    # what a catalog is like
    "image bytes": Rate(100_000, "bytes/image", "assumed", "JPEG of shops: 50 to 220 kB"),
    "row bytes": Rate(400, "bytes/row", "assumed", "a staged row without its image"),
    "labelled": Rate(0.1, "share", "assumed", "one product in ten has a label"),
    "head rows": Rate(1e6, "rows", "assumed", "a head is trained on at most so many"),
    "head epochs": Rate(20, "epochs", "assumed", "as docs/fusion.md trains them"),
}
"""By name."""


def rate(name: str) -> float:
    """The value of a rate."""
    return RATES[name].value


def gpu_seconds(model: str) -> float:
    """GPU seconds of a product, text and image, on an L4 or H100: published rates in proportion to memory bandwidth.

    That networks of this size are bound by memory is an assumption; nothing was measured on a GPU.
    """
    wide = rate(f"bandwidth {model}")
    image = rate("image 3090") * wide / rate("bandwidth 3090")
    text = rate("text V100") * wide / rate("bandwidth V100")
    return 1 / image + 1 / text
