"""What a run takes and costs on a cluster, and what binds it, for 1 M to 1 B products.

    python -m benchmarks.simulation                                    # all tables
    python -m benchmarks.simulation --shape "4 x L4" --products 30000000   # every stage of every run there
    python -m benchmarks.simulation --write                            # docs/scale.md and docs/scale.png anew

Nothing runs but arithmetic: rates are those of `benchmarks/simulation/rates.py`.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.simulation.figure import figure_png
from benchmarks.simulation.model import RUNS, dollars, seconds
from benchmarks.simulation.shapes import shape_named
from benchmarks.simulation.tables import TABLES, duration, refreshed
from mmbatch.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"


def write() -> None:
    """Bring the page's tables and its figure up to date."""
    page = DOCS / "scale.md"
    page.write_text(refreshed(page.read_text()))
    (DOCS / "scale.png").write_bytes(figure_png())


def one(name: str, products: int) -> None:
    """Print every stage of every run on one cluster."""
    shape = shape_named(name)
    for run, simulate in RUNS.items():
        stages = simulate(products, shape)
        print(f"{run}: {duration(seconds(stages))}, ${dollars(stages, shape):,.2f}")
        for stage in stages:
            print(f"  {stage.name:10} {duration(stage.seconds):>8}  {stage.binds}")


def main() -> None:
    """As the flags say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", help="name of a cluster")
    parser.add_argument("--products", type=int, default=10_000_000)
    parser.add_argument("--write", action="store_true", help="write docs/scale.md and docs/scale.png")
    flags = parser.parse_args()
    try:
        if flags.write:
            write()
        elif flags.shape:
            one(flags.shape, flags.products)
        else:
            print("\n\n".join(f"{name}\n\n{make()}" for name, make in TABLES.items()))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
