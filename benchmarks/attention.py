"""Speed of the cross-attention head's attention beside `torch.nn.MultiheadAttention` of the same sizes.

    python -m benchmarks.attention [--rows 256] [--tokens 30] [--patches 49] [--width 768] [--heads 6] [--repeats 20]

Queries of `--tokens` positions read a context of tokens and patches, on one thread and in float32: forward alone, and
forward and backward, without a mask and with one. Prints seconds of each, the fastest of the repeats, which take turns,
and the ratio (above 1: ours is faster). `--tokens 1 --patches 1` is the case of one vector of each modality.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmbatch.fusion.cross_attention import Attention

Read = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def fastest(reads: dict[str, Read], given: tuple[Tensor, Tensor, Tensor | None], *, repeats: int) -> dict[str, float]:
    """Seconds of each way to read, forward and, where gradients are on, backward."""
    seconds = dict.fromkeys(reads, float("inf"))
    for _ in range(repeats):
        for name, read in reads.items():
            started = time.perf_counter()
            found = read(*given)
            if torch.is_grad_enabled():
                found.sum().backward()  # type: ignore[no-untyped-call]
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("rows", 256),
        ("tokens", 30),
        ("patches", 49),
        ("width", 768),
        ("heads", 6),
        ("repeats", 20),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = Attention(width=flags.width, heads=flags.heads)
    theirs = nn.MultiheadAttention(flags.width, flags.heads, bias=False, batch_first=True)

    def read_theirs(queries: Tensor, context: Tensor, readable: Tensor | None) -> Tensor:
        ignored = None if readable is None else ~readable[:, 0, 0]
        found: Tensor = theirs(queries, context, context, key_padding_mask=ignored, need_weights=False)[0]
        return found

    queries = torch.randn(flags.rows, flags.tokens, flags.width)
    context = torch.randn(flags.rows, flags.tokens + flags.patches, flags.width)
    half_full = torch.arange(context.shape[1]) < torch.randint(1, context.shape[1] + 1, (flags.rows, 1))
    for what, gradients in (("forward", False), ("forward and backward", True)):
        for mask, readable in (("no mask", None), ("mask", half_full[:, None, None, :])):
            with torch.set_grad_enabled(gradients):
                seconds = fastest(
                    {"ours": ours, "torch": read_theirs}, (queries, context, readable), repeats=flags.repeats
                )
            ratio = seconds["torch"] / seconds["ours"]
            print(json.dumps({"what": what, "mask": mask, **seconds, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
