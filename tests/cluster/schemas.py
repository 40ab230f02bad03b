"""What the API server and KubeRay's resource definitions refuse: unknown fields, wrong types, missing fields."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.rendering import ROOT, Manifest

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate here")

KUBERNETES = "1.37"
DEFINITIONS = ROOT / "../shared/data/kuberay"


def violations(manifest: Manifest) -> list[str]:
    """What is wrong with one object by its schema, strictly: a field that the schema does not know is wrong."""
    if manifest["apiVersion"] == "ray.io/v1":
        validator = jsonschema.Draft202012Validator(_definition(manifest["kind"]))
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@cache
def _definition(kind: str) -> dict[str, Any]:
    file = Path(DEFINITIONS / f"ray.io_{kind.lower()}s.yaml")
    if not file.exists():
        pytest.skip(f"no {file.name} beside this checkout (../shared/data/kuberay)")
    versions = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return _strict(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, and no other fields than it names."""
    closed = "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields")
    found = schema | ({"additionalProperties": False} if closed else {})
    if "properties" in schema:
        found["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = _strict(schema[key])
    return found
