import re
from itertools import pairwise

import pytest

from mmbatch.reports.night_moves import BANDS, GAP, NO_CATEGORY, NODE, Node, move_chart


def overlap(nodes: tuple[Node, ...]) -> bool:
    return any(above.y + above.height + GAP > below.y + 1e-9 for above, below in pairwise(nodes))


def test_bands_are_as_thick_as_their_share_and_start_where_their_category_is() -> None:
    chart = move_chart([("a", "x", 30), ("a", "y", 10), ("b", "y", 20)])
    assert chart is not None
    assert chart.products == 60
    assert [(node.name, node.products) for node in chart.before] == [("a", 40), ("b", 20)]
    assert [(node.name, node.products) for node in chart.after] == [("x", 30), ("y", 30)]
    assert [node.height for node in chart.before] == pytest.approx([240, 120])
    thick = [float(re.findall(r"v([\d.]+)", band.path)[0]) for band in chart.bands]
    assert thick == pytest.approx([180, 60, 120])
    starts = [float(re.findall(r"M270 ([\d.]+)", band.path)[0]) for band in chart.bands]
    assert starts == pytest.approx([0, 180, 248])
    assert [band.colour for band in chart.bands] == [0, 0, 1]


def test_categories_never_overlap_and_have_room_for_a_label() -> None:
    chart = move_chart([(f"a{n % 7}", f"b{n % 11}", 1 + (n * n) % 50) for n in range(19)])
    assert chart is not None
    for side in (chart.before, chart.after):
        assert not overlap(side)
        assert min(node.height for node in side) >= NODE
        assert max(node.y + node.height for node in side) <= chart.height


def test_only_the_most_frequent_moves_are_drawn() -> None:
    chart = move_chart([(f"a{n}", f"b{n}", 5000 - n) for n in range(4000)])
    assert chart is not None
    assert len(chart.bands) == BANDS
    assert chart.products == sum(5000 - n for n in range(BANDS))


def test_no_category_has_a_name_and_long_paths_are_short() -> None:
    path = "Clothing, Shoes & Jewelry > Men > Shirts > Long-sleeved shirts"
    chart = move_chart([(None, path, 1)])
    assert chart is not None
    assert chart.before[0].label == NO_CATEGORY
    assert (chart.after[0].name, chart.after[0].label) == (path, "… > Long-sleeved shirts")


def test_no_moves_have_no_chart() -> None:
    assert move_chart([]) is None
