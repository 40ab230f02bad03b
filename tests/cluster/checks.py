"""What no schema says of the manifests: each check returns what is wrong, one line per place."""

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import partial
from importlib import import_module
from io import StringIO
from typing import Any

import tyro

from jobs._cli import Job
from tests.cluster.rendering import ROOT, Manifest

LONGEST_NAME = 47
"""Characters of a RayJob's name that KubeRay accepts."""

DATE = "-20260131"
SPARE_S = 15
"""Seconds between the end of Ray's draining and the kill."""


def walk(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping within a manifest, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from walk(inner, f"{path}[{number}]")


def places(manifests: list[Manifest], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of all manifests that has the key, and where it is."""
    for manifest in manifests:
        for path, found in walk(manifest):
            if key in found:
                yield f"{manifest['kind']}/{manifest['metadata']['name']}{path}", found


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in ("containers", "initContainers"):
        for where, pod in places(manifests, key):
            for container in pod[key]:
                yield f"{where}/{container['name']}", container
    for where, cluster in places(manifests, "autoscalerOptions"):
        yield f"{where}/autoscaler", cluster["autoscalerOptions"]


def without_resources(manifests: list[Manifest]) -> list[str]:
    """Containers that do not say what CPU and memory they need, and may take at most."""
    return [
        f"{where}: {part} of {resource} missing"
        for where, container in containers(manifests)
        for part in ("requests", "limits")
        for resource in ("cpu", "memory")
        if resource not in container.get("resources", {}).get(part, {})
    ]


def privileged(manifests: list[Manifest]) -> list[str]:
    """Containers that may do more than they need, and pods that run as root or share the host's."""
    wrong = []
    for where, container in containers(manifests):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("capabilities") != {"drop": ["ALL"]}:
            wrong.append(f"{where}: may gain rights")
        if context.get("privileged"):
            wrong.append(f"{where}: privileged")
        if "image" in container and not context.get("readOnlyRootFilesystem"):
            wrong.append(f"{where}: writable root")
    for where, pod in places(manifests, "containers"):
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            wrong.append(f"{where}: may run as root")
        wrong += [f"{where}: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if name in pod]
        wrong += [f"{where}: host path" for volume in pod.get("volumes", []) if "hostPath" in volume]
    return wrong


def loose_images(manifests: list[Manifest]) -> list[str]:
    """Containers whose image has no fixed tag, or another one than the others."""
    images = {where: container["image"] for where, container in containers(manifests) if "image" in container}
    first = next(iter(images.values()))
    tagged = re.compile(r"[a-z0-9./:-]+:(?!latest$)[\w.-]+")
    return [f"{where}: {image}" for where, image in images.items() if image != first or not tagged.fullmatch(image)]


def literal_secrets(manifests: list[Manifest]) -> list[str]:
    """Objects and variables that hold a secret themselves."""
    wrong = [f"Secret {each['metadata']['name']}" for each in manifests if each["kind"] == "Secret"]
    secret = re.compile("SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL")
    for where, variable in places(manifests, "value"):
        if secret.search(str(variable.get("name"))):
            wrong.append(f"{where}: {variable['name']}")
    for where, found in places(manifests, "kind"):
        wrong += [f"{where}: an AWS key" for value in found.values() if re.search(r"\b(AKIA|ASIA)\w{16}", str(value))]
    return wrong


def unknown_secrets(manifests: list[Manifest], *, made: set[str]) -> list[str]:
    """References to a secret that nobody makes, and references that may be missing without a word."""
    wrong = []
    for key in ("secretRef", "secretKeyRef"):
        for where, holder in places(manifests, key):
            if holder[key]["name"] not in made:
                wrong.append(f"{where}: secret {holder[key]['name']} is made by no command")
            if holder[key].get("optional"):
                wrong.append(f"{where}: secret {holder[key]['name']} is optional")
    return wrong


def dangling(manifests: list[Manifest]) -> list[str]:
    """Pods that name a volume, a claim, a ConfigMap or a service account that is not there."""
    there = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    wrong = []
    for where, pod in places(manifests, "containers"):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        mounts = [mount["name"] for each in pod["containers"] for mount in each.get("volumeMounts", [])]
        wrong += [f"{where}: volume {name}" for name in mounts if name not in volumes]
        named = [("ServiceAccount", pod["serviceAccountName"])] if "serviceAccountName" in pod else []
        for volume in volumes.values():
            if "configMap" in volume:
                named.append(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                named.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        wrong += [f"{where}: {kind} {name}" for kind, name in named if (kind, name) not in there]
    return wrong


def other_variables(manifests: list[Manifest], *, known: set[str]) -> list[str]:
    """AWS variables that `cluster/object-store.env` does not know."""
    return [
        f"{where}: {variable['name']}"
        for where, variable in places(manifests, "value")
        if str(variable.get("name")).startswith("AWS_") and variable["name"] not in known
    ]


def odd_clusters(manifests: list[Manifest], *, ray: str) -> list[str]:
    """Ray clusters of another version, without a token, with work on the head, or with a number of workers outside."""
    wrong = []
    for where, cluster in places(manifests, "headGroupSpec"):
        if cluster.get("rayVersion") != ray:
            wrong.append(f"{where}: Ray {cluster.get('rayVersion')}, expected {ray}")
        if cluster.get("authOptions") != {"mode": "token"}:
            wrong.append(f"{where}: no token is asked for")
        if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
            wrong.append(f"{where}: work on the head")
        for group in cluster.get("workerGroupSpecs", []):
            if not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
                wrong.append(f"{where}: {group['groupName']} has {group.get('replicas')} workers")
            wrong += [f"{where}: {group['groupName']} {line}" for line in _abrupt(group["template"]["spec"])]
    return wrong


def _abrupt(pod: dict[str, Any]) -> list[str]:
    """Why a worker is killed before it has drained."""
    variables = {each["name"]: each.get("value") for each in pod["containers"][0].get("env", [])}
    drain = float(variables.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 0)
    grace = pod.get("terminationGracePeriodSeconds", 30)
    return [] if 0 < drain <= grace - SPARE_S else [f"drains {drain:g} s of {grace} s"]


def odd_starters(manifests: list[Manifest]) -> list[str]:
    """CronJobs that run beside themselves, start a RayJob that is not there, or give up before it ends."""
    jobs = {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "RayJob"}
    wrong = []
    for cron in (each for each in manifests if each["kind"] == "CronJob"):
        name, spec = cron["metadata"]["name"], cron["spec"]
        if spec.get("concurrencyPolicy") != "Forbid":
            wrong.append(f"{name}: runs beside itself")
        if not spec.get("suspend") and "startingDeadlineSeconds" not in spec:
            wrong.append(f"{name}: no deadline for a late start")
        started = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"]
        if len(started) != 1 or started[0] not in jobs:
            wrong.append(f"{name}: starts {started}")
            continue
        job = jobs[started[0]]
        longest = (job["backoffLimit"] + 1) * (job["activeDeadlineSeconds"] + job["preRunningDeadlineSeconds"])
        if spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < longest:
            wrong.append(f"{name}: gives up before {longest} s")
        if spec["jobTemplate"]["spec"].get("backoffLimit", 6):
            wrong.append(f"{name}: tries again, and on the next day starts another copy")
        if not job.get("suspend") or not job.get("shutdownAfterJobFinishes") or len(started[0] + DATE) > LONGEST_NAME:
            wrong.append(f"{name}: RayJob {started[0]} is no pattern")
    return wrong


def wide_rights(manifests: list[Manifest]) -> list[str]:
    """Rules that allow more than creating and looking at RayJobs."""
    return [
        f"{each['metadata']['name']}: {rule}"
        for each in manifests
        if each["kind"] in ("Role", "ClusterRole")
        for rule in each["rules"]
        if each["kind"] == "ClusterRole"
        or rule["apiGroups"] != ["ray.io"]
        or rule["resources"] != ["rayjobs"]
        or not {*rule["verbs"]} <= {"create", "get", "watch"}
    ]


def odd_entrypoints(manifests: list[Manifest]) -> list[str]:
    """Commands that are no job of this repository, or have flags that it does not know."""
    wrong = []
    for where, job in places(manifests, "entrypoint"):
        words = shlex.split(job["entrypoint"])
        if shlex.join(words) != job["entrypoint"]:
            wrong.append(f"{where}: a shell would read it otherwise: {job['entrypoint']}")
        wrong += [f"{where}: {line}" for line in odd_command(words)]
    return wrong


def odd_command(words: list[str]) -> list[str]:
    """Why `python -m jobs.NAME FLAGS` would end before it starts."""
    if words[:2] != ["python", "-m"] or not (ROOT / f"{words[2].replace('.', '/')}.py").exists():
        return [f"no job: {' '.join(words[:3])}"]
    module = import_module(words[2])
    flags = next(
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Job) and found.__module__ == module.__name__
    )
    said = StringIO()
    try:
        with redirect_stderr(said):
            tyro.cli(flags, args=words[3:])
    except SystemExit:
        return [f"{' '.join(words)}: {' '.join(said.getvalue().split())}"]
    return []


def lonely_workspaces(manifests: list[Manifest]) -> list[str]:
    """Ray pods that cannot reach the workspace of their job: no settings of an object store, or no shared volume."""
    wrong = []
    for where, job in places(manifests, "entrypoint"):
        words = shlex.split(job["entrypoint"])
        uri = words[words.index("--workspace") + 1]
        cluster = job["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            if uri.startswith("s3://") and not any("secretRef" in each for each in pod["containers"][0]["envFrom"]):
                wrong.append(f"{where}: {pod['containers'][0]['name']} knows no object store")
            if uri.startswith("/") and not any(uri.startswith(f"{folder}/") for folder in _shared(pod)):
                wrong.append(f"{where}: {uri} is on no shared volume")
    return wrong


def _shared(pod: dict[str, Any]) -> list[str]:
    """Where a pod has mounted its claims."""
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    return [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] in claims]


def object_store_variables() -> set[str]:
    """Names that `cluster/object-store.env` sets or speaks of."""
    return {*re.findall(r"\bAWS_[A-Z_]+", (ROOT / "cluster/object-store.env").read_text())}


def documented_secrets() -> set[str]:
    """Secrets that a command of docs/cluster.md makes."""
    return {*re.findall(r"create secret generic ([\w-]+)", (ROOT / "docs/cluster.md").read_text())}


def pinned_ray() -> str:
    found = re.search(r"^ray\[.*\]==([\w.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


CHECKS: dict[str, Callable[[list[Manifest]], list[str]]] = {
    "resources": without_resources,
    "rights in the container": privileged,
    "images": loose_images,
    "literal secrets": literal_secrets,
    "secrets": lambda manifests: unknown_secrets(manifests, made=documented_secrets()),
    "references": dangling,
    "workspaces": lonely_workspaces,
    "variables": partial(other_variables, known=object_store_variables()),
    "clusters": partial(odd_clusters, ray=pinned_ray()),
    "starters": odd_starters,
    "rights in Kubernetes": wide_rights,
    "entrypoints": odd_entrypoints,
}
