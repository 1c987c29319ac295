"""The manifests: valid by Kubernetes' schemas, and confined as their README says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy_files.reading import (
    DEPLOY,
    FOLDERS,
    compose,
    manifests,
    of_kind,
    pod,
    printed,
    tool,
)

VERSIONS = ("1.30", "1.34", "1.37")


def containers(folder: str) -> dict[str, dict[str, Any]]:
    """Containers of a folder's pod by name, with those that run first."""
    found = pod(folder)
    return {one["name"]: one for one in [*found.get("initContainers", []), *found["containers"]]}


def mounts(container: dict[str, Any]) -> set[str]:
    """Names of the volumes that a container sees."""
    return {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_manifests_fit_kubernetes_schemas(folder: str, version: str) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate (with the schemas) is missing"
    )
    for one in manifests(folder):
        validator.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    broken = of_kind(manifests("organisation"), "StatefulSet")
    broken["spec"]["template"]["spec"]["containers"][0]["securityContexts"] = {}
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_builds_all_of_it(folder: str) -> None:
    status, out = printed(tool("kubectl"), "kustomize", DEPLOY / "kubernetes" / folder)
    assert status == 0, out
    built = list(yaml.safe_load_all(out))
    assert sorted(one["kind"] for one in built) == sorted(one["kind"] for one in manifests(folder))
    images = [
        one["image"]
        for one in of_kind(built, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    ]
    assert {image.rsplit("/", 1)[-1] for image in images} == {
        compose()["services"]["agent"]["image"]
    }


def test_every_manifest_is_in_its_kustomization() -> None:
    for folder in FOLDERS:
        within = DEPLOY / "kubernetes" / folder
        named = yaml.safe_load((within / "kustomization.yaml").read_text())["resources"]
        assert {path.name for path in within.glob("*.yaml")} == {*named, "kustomization.yaml"}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_that_makes_an_organisation_is_like_the_agents(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    made = yaml.safe_load((DEPLOY / "kubernetes" / "init.yaml").read_text())
    validator.validate(made, version, strict=True)
    (container,) = made["spec"]["containers"]
    agent = containers("organisation")["agent"]
    context = made["spec"]["securityContext"] | container["securityContext"]
    assert agent["securityContext"].items() <= context.items()
    claims = [
        {v["name"]: v["persistentVolumeClaim"] for v in volumes if "persistentVolumeClaim" in v}
        for volumes in (made["spec"]["volumes"], pod("organisation")["volumes"])
    ]
    assert claims[0] == claims[1]
    policy = of_kind(manifests("organisation"), "NetworkPolicy")["spec"]
    assert made["metadata"]["labels"] == policy["podSelector"]["matchLabels"]


def test_only_the_agent_mounts_the_organisations_volume() -> None:
    found = containers("organisation")
    assert mounts(found["agent"]) & mounts(found["supernode"]) == {"socket"}
    claims = {v["name"] for v in pod("organisation")["volumes"] if "persistentVolumeClaim" in v}
    assert claims <= mounts(found["agent"])
    assert not claims & mounts(found["supernode"])


def test_only_the_supernode_mounts_its_key() -> None:
    secrets = {v["name"] for v in pod("organisation")["volumes"] if "secret" in v}
    found = containers("organisation")
    assert secrets <= mounts(found["supernode"])
    assert not secrets & mounts(found["agent"])


def test_the_socket_lies_in_memory_of_the_pod() -> None:
    (socket,) = (v for v in pod("organisation")["volumes"] if v["name"] == "socket")
    assert socket["emptyDir"]["medium"] == "Memory"


def test_containers_run_as_the_users_of_the_image() -> None:
    services, found = compose()["services"], containers("organisation")
    for name in ("agent", "supernode"):
        context = found[name]["securityContext"]
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == services[name]["user"]
    assert [str(pod("organisation")["securityContext"]["fsGroup"])] == services["agent"][
        "group_add"
    ]
    context = pod("federation")["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == services["superlink"]["user"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_pod_fits_the_restricted_standard_of_its_namespace(folder: str) -> None:
    labels = of_kind(manifests(folder), "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    found = pod(folder)
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert found["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(found)
    kinds = {kind for volume in found["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"persistentVolumeClaim", "emptyDir", "secret"}
    for container in containers(folder).values():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_nobody_reaches_the_organisations_pod_and_it_reaches_one_port() -> None:
    policy = of_kind(manifests("organisation"), "NetworkPolicy")["spec"]
    labels = of_kind(manifests("organisation"), "StatefulSet")["spec"]["template"]["metadata"]
    assert policy["podSelector"]["matchLabels"] == labels["labels"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    superlink, names = policy["egress"]
    assert superlink["ports"] == [{"protocol": "TCP", "port": 9092}]
    assert {port["port"] for port in names["ports"]} == {53}


def test_the_authoritys_key_is_not_on_the_cluster() -> None:
    text = "".join(path.read_text() for path in Path(DEPLOY / "kubernetes").rglob("*.yaml"))
    assert "ca.key" not in text
