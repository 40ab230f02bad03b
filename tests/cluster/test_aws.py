from copy import deepcopy
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.checks import object_store_variables
from tests.cluster.rendering import ROOT, one

FILE = ROOT / "cluster/aws.yaml"


@pytest.fixture
def written() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@pytest.fixture
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` reads it: with Ray's defaults filled in."""
    found: dict[str, Any] = prepare_config(deepcopy(written))
    validate_config(found)
    return found


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: found for name, found in config["available_node_types"].items() if name != config["head_node_type"]}


def test_it_is_valid(prepared: dict[str, Any]) -> None:
    assert [*workers(prepared)] == ["cpu", "gpu"]


def test_a_misspelt_field_is_found(written: dict[str, Any]) -> None:
    written["idle_timeout_minute"] = written.pop("idle_timeout_minutes")
    with pytest.raises(ValidationError, match="'idle_timeout_minute' was unexpected"):
        validate_config(prepare_config(written))


def test_more_workers_at_least_than_at_most_are_found(written: dict[str, Any]) -> None:
    written["available_node_types"]["cpu"]["min_workers"] = 100
    with pytest.raises(ValueError, match="`max_workers` is smaller"):
        validate_config(prepare_config(written))


def test_groups_scale_and_workers_are_on_spot_machines(prepared: dict[str, Any]) -> None:
    for found in workers(prepared).values():
        assert 0 <= found["min_workers"] < found["max_workers"]
        assert found["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in prepared["head_start_ray_commands"][-1]
    assert workers(prepared)["gpu"]["resources"]["GPU"] == 1
    assert sum(found["max_workers"] for found in workers(prepared).values()) <= prepared["max_workers"]


def test_every_machine_has_its_rights_from_the_instance_profile(prepared: dict[str, Any]) -> None:
    for found in prepared["available_node_types"].values():
        assert found["node_config"]["IamInstanceProfile"] == {"Name": "mmbatch"}
        assert found["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_nothing_is_installed_on_a_worker_and_nothing_unpinned_on_the_head(prepared: dict[str, Any]) -> None:
    assert prepared["worker_setup_commands"] == prepared["setup_commands"] == []
    (command,) = prepared["head_setup_commands"]
    packages = [word for word in command.split() if "==" in word]
    assert [package.partition("==")[0] for package in packages] == ["boto3", "s3transfer"]
    botocore = next(
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("botocore==")
    )
    assert packages[0].partition("==")[2] == botocore.partition("==")[2]


def test_variables_are_those_of_the_object_store_file(prepared: dict[str, Any]) -> None:
    options = [each.split() for each in prepared["docker"]["run_options"]]
    named = {words[1].partition("=")[0] for words in options if words[0] == "--env"}
    assert {name for name in named if name.startswith("AWS_")} <= object_store_variables()
    assert named == {"AWS_REGION", "AWS_DEFAULT_REGION", "RAY_AUTH_MODE"}
    assert {words[1].partition("=")[2] for words in options if "REGION" in words[-1]} == {
        prepared["provider"]["region"]
    }


def test_the_image_is_that_of_production(written: dict[str, Any], production: list[dict[str, Any]]) -> None:
    head = one(production, "RayCluster", "mmbatch")["spec"]["headGroupSpec"]["template"]["spec"]
    assert written["docker"]["image"] == head["containers"][0]["image"]


def test_only_the_token_is_copied_to_machines(prepared: dict[str, Any]) -> None:
    assert prepared["file_mounts"] == {"/home/mmbatch/.ray": "~/.ray"}
