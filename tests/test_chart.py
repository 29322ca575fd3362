"""The Helm chart, rendered by Helm itself and validated against the schemas of Kubernetes."""

from collections.abc import Callable
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint

from soul_store.settings import Settings
from tests.paths import ROOT

CHART = ROOT / "deploy" / "helm" / "soul"
KUBERNETES_VERSIONS = ("1.30", "1.36")
#: Values that take every branch of the templates.
EVERYTHING: dict[str, Any] = {
    "autoscaling": {"enabled": True},
    "models": {"existingClaim": "models"},
    "huggingFace": {"tokenSecret": {"name": "hub"}},
    "imagePullSecrets": [{"name": "registry"}],
    "podAnnotations": {"a/b": "c"},
    "volume": {"storageClass": "fast"},
    "worker": {"nodeSelector": {"gpu": "yes"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "telemetry": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
}
Render = Callable[..., list[dict[str, Any]]]


def render(**values: Any) -> list[dict[str, Any]]:
    """Return the manifests of a release named `unit`, as `helm template` does."""
    with Chart.load(CHART) as chart:
        texts = chart.render(values=values, name="unit")
    return [
        manifest
        for name, text in texts.items()
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def find(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (manifest,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return manifest


def list_pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [manifest["spec"]["template"]["spec"] for manifest in manifests if "template" in manifest.get("spec", {})]


def test_helm_finds_nothing_wrong() -> None:
    result = lint(CHART, values=EVERYTHING, strict=True)

    assert result["errors"] == []
    assert [message for message in result["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_manifest_is_valid_for_kubernetes(values: dict[str, Any], version: str) -> None:
    manifests = [manifest for manifest in render(**values) if manifest["kind"] != "ScaledObject"]

    assert len(manifests) >= 9
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_every_variable_is_a_setting_and_every_needed_one_is_given() -> None:
    names = {f"SOUL_{name.upper()}" for name in Settings.model_fields}
    needed = {f"SOUL_{name.upper()}" for name, field in Settings.model_fields.items() if field.is_required()}

    for pod in list_pods(render(**EVERYTHING)):
        (container,) = pod["containers"]
        variables = [entry["name"] for entry in container["env"]]
        given = {name.removesuffix("_FILE") for name in variables if name.startswith("SOUL_")}
        assert needed <= given <= names
        assert len(variables) == len(set(variables))


def test_no_pod_runs_as_root_or_writes_to_its_image() -> None:
    pods = list_pods(render())

    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert "memory" in container["resources"]["limits"]


def test_a_worker_pod_has_one_gpu_and_time_to_write_a_checkpoint() -> None:
    spec = find(render(), "Deployment", "unit-worker")["spec"]
    pod = spec["template"]["spec"]
    grace = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}["SOUL_GRACE_SECONDS"]

    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["terminationGracePeriodSeconds"] > float(grace)
    assert spec["replicas"] == 1


def test_a_worker_without_a_gpu_asks_for_none() -> None:
    pod = find(render(worker={"gpus": 0}), "Deployment", "unit-worker")["spec"]["template"]["spec"]

    assert set(pod["containers"][0]["resources"]["limits"]) == {"memory"}


def test_migrations_run_before_the_pods_of_a_new_version() -> None:
    annotations = find(render(), "Job", "unit-migrate")["metadata"]["annotations"]

    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_autoscaling_takes_the_number_of_workers_over() -> None:
    manifests = render(autoscaling={"enabled": True})

    scaled = find(manifests, "ScaledObject", "unit-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "unit-worker"
    assert "replicas" not in find(manifests, "Deployment", "unit-worker")["spec"]
    assert {trigger["metadata"]["query"] for trigger in scaled["triggers"]} == {
        "max(soul_queue_age_seconds)",
        'max(soul_jobs{status="running"})',
    }


def test_secrets_are_named_and_never_contained() -> None:
    manifests = render(**EVERYTHING)

    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    for pod in list_pods(manifests):
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "secrets"]
        names = {source["secret"]["name"] for source in volume["projected"]["sources"]}
        assert names == {"soul-database", "soul-broker", "hub"}
