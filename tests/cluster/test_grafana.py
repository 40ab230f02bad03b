"""The dashboard, the alerts of the page and the scraping: they name what is exported, and all of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from mmbatch.pipelines import metrics
from mmbatch.progress import FORMAT
from tests.cluster.rendering import KUBERAY, OVERLAYS, ROOT, Manifest, one, render

BOARD = json.loads((ROOT / "cluster/grafana.json").read_text())
PAGE = (ROOT / "docs/observability.md").read_text()
TAGS = {f"ray_{each.name}": each.tags for each in (*metrics.COUNTERS, *metrics.GAUGES)}
RAYS_OWN = {"SessionName", "WorkerId", "instance"}
VARIABLES = {"$__rate_interval": "5m", "$__range": "1d", "$session": ".*"}


def targets() -> list[dict[str, Any]]:
    return [target for panel in BOARD["panels"] for target in panel.get("targets", [])]


def expressions() -> list[str]:
    found = [target["expr"] for target in targets()]
    for name, value in VARIABLES.items():
        found = [expr.replace(name, value) for expr in found]
    return found


def alerts() -> list[str]:
    """Expressions of the page's table of alerts and of its examples."""
    table = re.findall(r"^\| [^|]+ \| `((?:[^`|]|\\\|)+)` \|$", PAGE.partition("## What to alert on")[2], re.MULTILINE)
    return [expr.replace("\\|", "|") for expr in table] + re.findall(r"^```promql\n(.*?)^```", PAGE, re.M | re.S)


def nodes(text: str) -> list[Any]:
    """Every part of an expression."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(text), found.append)
    return found


def selectors(text: str) -> list[Any]:
    """Every selector of metrics in an expression."""
    return [node for node in nodes(text) if isinstance(node, promql_parser.VectorSelector)]


def labels(text: str) -> set[str]:
    """Every label that aggregations and matchings of an expression name."""
    modifiers = [getattr(node, "modifier", None) for node in nodes(text)]
    named = [getattr(each, "matching", None) or each for each in modifiers if each is not None]
    return {label for each in named for label in getattr(each, "labels", ())}


def wrong(text: str) -> list[str]:
    """Metrics and labels of an expression that nothing exports."""
    found, known = [], set(RAYS_OWN)
    for selector in selectors(text):
        if selector.name not in TAGS:
            found += [] if selector.name in rays_metrics() else [f"{selector.name} is not exported"]
            known |= {"GpuIndex", "Location"}
            continue
        known |= {*TAGS[selector.name]}
        named = {matcher.name for matcher in selector.matchers.matchers}
        found += [f"{selector.name} has no {name}" for name in sorted(named - {*TAGS[selector.name]} - RAYS_OWN)]
    return found + [f"no metric here has {name}" for name in sorted(labels(text) - known)]


def rays_metrics() -> set[str]:
    """Metrics that Ray's own dashboard shows."""
    return {*re.findall(r"\bray_\w+", Path(default_dashboard_panels.__file__).read_text())}


@pytest.mark.parametrize("expr", expressions() + alerts())
def test_expressions_name_what_is_exported(expr: str) -> None:
    assert wrong(expr) == []


def test_every_metric_is_on_the_dashboard_and_on_the_page() -> None:
    shown = {selector.name for expr in expressions() for selector in selectors(expr)}
    assert {*TAGS} <= shown
    explained = dict(re.findall(r"^\| `(ray_mmbatch_\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert {name: tuple(re.findall(r"`(\w+)`", tags)) for name, tags in explained.items()} == TAGS


def test_there_are_alerts() -> None:
    assert len(alerts()) == 5


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("sum(ray_mmbatch_rows)", "ray_mmbatch_rows is not exported"),
        ("sum(ray_node_cpus_utilisation)", "ray_node_cpus_utilisation is not exported"),
        ('rate(ray_mmbatch_rows_total{table="catalog"}[5m])', "ray_mmbatch_rows_total has no table"),
        ("sum by (reason) (rate(ray_mmbatch_rows_total[5m]))", "no metric here has reason"),
        ("1 / (1 + sum by (outcome) (ray_mmbatch_nights_total))", "no metric here has outcome"),
    ],
)
def test_a_wrong_name_is_found(expr: str, found: str) -> None:
    assert wrong(expr) == [found]


def test_legends_have_the_labels_of_their_expression() -> None:
    for target, expr in zip(targets(), expressions(), strict=True):
        named = {*re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])}
        assert named <= labels(expr), target["legendFormat"]


def test_the_dashboard_asks_for_its_data_source() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    sources = [each["datasource"] for each in [*BOARD["panels"], *targets(), variables["session"]] if "targets" in each]
    sources += [target["datasource"] for target in targets()] + [variables["session"]["datasource"]]
    assert sources == [{"type": "prometheus", "uid": "${datasource}"}] * len(sources)
    assert "$session" in json.dumps(BOARD["panels"])
    (queried,) = re.findall(r"label_values\((\w+), (\w+)\)", variables["session"]["query"]["query"])
    assert queried[0] in TAGS
    assert queried[1] in RAYS_OWN


def test_panels_have_an_id_of_their_own_and_do_not_overlap() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len({*cells}) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_ray_pod_is_scraped(
    kubectl: Path, tmp_path: Path, rendered: dict[str, list[Manifest]], overlay: str
) -> None:
    """The component is added to an overlay as the page says."""
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    file = tmp_path / "kuberay/overlays" / overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("components: [", "components: [../../components/metrics, "))
    manifests = render(kubectl, file.parent)
    monitor = one(manifests, "PodMonitor", "mmbatch")
    assert [each for each in manifests if each != monitor] == rendered[overlay]
    assert monitor["metadata"]["namespace"] == "mmbatch"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.pop("ray.io/is-ray-node") == "yes"  # KubeRay gives it to its pods, and the port too
    cluster = one(manifests, "RayJob", "mmbatch-nightly")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert wanted.items() <= group["template"]["metadata"]["labels"].items()
        assert "metrics-export-port" not in group["rayStartParams"]


def test_what_the_page_appends_makes_every_driver_say_json(kubectl: Path, tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    (snippet,) = re.findall(r"^```yaml\n(  - target: .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "kuberay/overlays/production/size/kustomization.yaml"
    file.write_text(file.read_text() + snippet)
    jobs = [each for each in render(kubectl, file.parents[1]) if each["kind"] == "RayJob"]
    assert len(jobs) == 3
    for job in jobs:
        head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        assert {"name": FORMAT, "value": "json"} in head["env"]


def test_nodes_stay_long_enough_to_be_scraped(production: list[Manifest]) -> None:
    seconds = {each["spec"]["ttlSecondsAfterFinished"] for each in production if each["kind"] == "RayJob"}
    assert seconds == {600}
    assert "10 minutes after a RayJob" in " ".join(PAGE.split())
