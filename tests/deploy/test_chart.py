"""The Helm chart, rendered by Helm's own engine, checked against Kubernetes' schemas and against the program."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

TOKENS = {"secretName": "keys", "key": "token-key"}
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "behind envoy": {"envoy": {"enabled": True}, "tokenKey": TOKENS},
    "plain and bare": {
        "tls": {"enabled": False},
        "autoscaling": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
    },
    "everything": {
        "model": {"path": "/models/large", "existingClaim": "models"},
        "extraArgs": ["--rule=greedy"],
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4317"}],
        "kvCacheTokens": 2_000_000,
        "tenants": ["acme", "other=greedy,coupled"],
        "tokenKey": TOKENS,
        "nodeSelector": {"gpu": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
        "networkPolicy": {
            "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "egress": [{"ports": [{"port": 4317}]}],
        },
    },
}


def one(objects: list[dict[str, Any]], kind: str, suffix: str = "paceline") -> dict[str, Any]:
    """The object of a kind whose name ends so."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
    return found


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The verifier's."""
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_takes_every_object(render: Any, case: str) -> None:
    """Strictly: a key that Kubernetes does not know is an error."""
    validator = pytest.importorskip("kubernetes_validate", reason="pip install 'paceline[deploy]'")
    for rendered in render(**CASES[case]):
        validator.validate(rendered, validator.latest_version(), strict=True)


def test_an_unknown_key_is_noticed() -> None:
    """The check above can fail."""
    validator = pytest.importorskip("kubernetes_validate", reason="pip install 'paceline[deploy]'")
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}
    with pytest.raises(validator.ValidationError):
        validator.validate(wrong, validator.latest_version(), strict=True)


def test_lint_finds_no_fault(deploy: Path) -> None:
    """Helm's own, strictly: warnings count."""
    helm = pytest.importorskip("helm_python", reason="pip install 'paceline[deploy]'")
    report = helm.lint(deploy / "helm/paceline", strict=True)
    assert report["errors"] == []
    assert all(message["severity"] <= 1 for message in report["messages"])


@pytest.mark.parametrize("case", CASES)
def test_a_pod_is_not_killed_before_its_drain_is_over(render: Any, case: str) -> None:
    """The grace period holds the pause before SIGTERM and the drain that the program is told of."""
    objects = render(**CASES[case], drainSeconds=37)
    pod, serving = one(objects, "Deployment")["spec"]["template"]["spec"], container(objects)
    assert "--drain-s=37" in serving["args"]
    before_s = serving["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > before_s + 37
    update = one(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("case", CASES)
def test_every_mount_has_a_volume_and_every_file_a_mount(render: Any, case: str) -> None:
    """Nothing is mounted that is not there, and files that options name lie in a mount."""
    objects = render(**CASES[case])
    pod, serving = one(objects, "Deployment")["spec"]["template"]["spec"], container(objects)
    mounts = {mount["name"]: mount["mountPath"] for mount in serving["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    for argument in serving["args"]:
        for path in re.findall(r"=(/etc/.*|/models/.*)$", argument):
            assert any(path.startswith(f"{place}/") for place in mounts.values()), argument


@pytest.mark.parametrize("case", CASES)
def test_selectors_select(render: Any, case: str) -> None:
    """Services, budgets and policies point at labels that pods have; the autoscaler at the deployment."""
    objects = render(**CASES[case])
    pods = [o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] == "Deployment"]
    for found in objects:
        spec = found.get("spec", {})
        match found["kind"]:
            case "Service":
                selector = spec["selector"]
            case "PodDisruptionBudget" | "Deployment":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case "HorizontalPodAutoscaler":
                assert spec["scaleTargetRef"]["name"] == one(objects, "Deployment")["metadata"]["name"]
                continue
            case _:
                continue
        assert sum(selector.items() <= labels.items() for labels in pods) == 1, found


def test_nothing_listens_openly_without_envoy_before_it(render: Any) -> None:
    """With TLS on, the verifier asks for certificates; it takes plain links only where Envoy or the operator asked."""
    assert "--insecure-listen" not in container(render())["args"]
    assert "--tls-client-ca=/etc/paceline/tls/ca.crt" in container(render())["args"]
    behind = render(**CASES["behind envoy"])
    assert "--insecure-listen" in container(behind)["args"]
    assert "--token-key=/etc/paceline/token/token-key" in container(behind)["args"]
    (peer,) = one(behind, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "envoy"


def test_the_autoscaler_asks_for_what_the_adapter_offers(render: Any, deploy: Path) -> None:
    """Both name the same metrics, and the cache's share is a share."""
    rules = yaml.safe_load((deploy / "prometheus/adapter.yaml").read_text())["rules"]["custom"]
    metrics = one(render(), "HorizontalPodAutoscaler")["spec"]["metrics"]
    wanted = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in metrics}
    assert set(wanted) == {rule["name"]["as"] for rule in rules}
    assert wanted == {"paceline_num_requests_running": "40", "paceline_kv_cache_usage_perc": "700m"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"drainSecond": 3}, "drainSecond"),
        ({"maxSessions": 0}, "maxSessions"),
        ({"envoy": {"enabled": True}}, "needs tokenKey.secretName"),
        ({"maxSessions": 40}, "targetSessions must be below maxSessions"),
    ],
)
def test_wrong_values_are_refused_by_name(render: Any, values: dict[str, Any], words: str) -> None:
    """Misspelt keys, values out of range, and combinations that could not work."""
    with pytest.raises(Exception, match=words):
        render(**values)


def test_no_key_passes_through_the_values() -> None:
    """The chart makes no secret; it names those that are there."""
    chart = Path(__file__).resolve().parents[2] / "deploy/helm/paceline"
    assert not [file for file in chart.rglob("*.yaml") if "kind: Secret" in file.read_text()]
