# SPDX-License-Identifier: Apache-2.0
"""The compose and Kubernetes files: valid by their schemas, and of one piece with the configurations that were run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from otelstream import _semconv as names
from otelstream._core.record.objectives import Objectives
from otelstream.collector import _files as _collector

from .fleet import CONFIGS, Backend, Collector, free_port, wait_until

VERSION = yaml.safe_load((CONFIGS / "builder.yaml").read_text())["dist"]["version"]
IMAGE = f"otel/opentelemetry-collector-contrib:{VERSION}"
COMPOSE = yaml.safe_load((CONFIGS / "compose.yaml").read_text())
MANIFESTS = {
    f"{file.stem}/{manifest['kind']}/{manifest['metadata']['name']}": manifest
    for file in sorted((CONFIGS / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
}
WORKLOADS = {
    name: manifest
    for name, manifest in MANIFESTS.items()
    if manifest["kind"] in ("DaemonSet", "Deployment", "StatefulSet")
}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
MATCH = closed({"matchLabels": {"type": "object", "additionalProperties": TEXT}}, "matchLabels")
# Of the operators' own schemas, the part in use; a misspelt field fails.
CUSTOM = {
    "PodMonitor": closed(
        {
            "selector": MATCH,
            "podMetricsEndpoints": {
                "type": "array",
                "minItems": 1,
                "items": closed(
                    {
                        "port": TEXT,
                        "interval": {"type": "string", "pattern": r"^\d+[sm]$"},
                        "honorLabels": {"type": "boolean"},
                        "honorTimestamps": {"type": "boolean"},
                    },
                    "port",
                ),
            },
        },
        "selector",
        "podMetricsEndpoints",
    ),
    "ScaledObject": closed(
        {
            "scaleTargetRef": closed({"name": TEXT}, "name"),
            "minReplicaCount": {"type": "integer"},
            "maxReplicaCount": {"type": "integer"},
            "cooldownPeriod": {"type": "integer"},
            "advanced": closed({"horizontalPodAutoscalerConfig": closed({"behavior": {"type": "object"}})}),
            "triggers": {
                "type": "array",
                "items": closed(
                    {
                        "type": {"const": "prometheus"},
                        "metadata": closed(
                            {"serverAddress": TEXT, "query": TEXT, "threshold": TEXT},
                            "serverAddress",
                            "query",
                            "threshold",
                        ),
                    },
                    "type",
                    "metadata",
                ),
            },
        },
        "scaleTargetRef",
        "triggers",
    ),
}


def test_compose_is_valid_by_its_schema() -> None:
    """The compose specification's JSON Schema, as a library carries it."""
    library = pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    [schema] = Path(library.__file__).parent.rglob("compose-spec.json")

    jsonschema.validate(COMPOSE, json.loads(schema.read_text()))


def test_compose_is_accepted_by_the_client_where_it_can() -> None:
    """`docker compose config` resolves the file; it needs no engine."""
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this docker client has no compose")
    done = subprocess.run(
        ["docker", "compose", "-f", str(CONFIGS / "compose.yaml"), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where each bind mount of a service comes from, by where it goes."""
    found = {}
    for volume in service.get("volumes", []):
        source, target = re.sub(r"\$\{DASHBOARDS:-([^}]*)\}", r"\1", volume).split(":")[:2]
        if source.startswith("."):
            found[target] = source
    return found


def test_everything_that_compose_mounts_exists() -> None:
    """A bind mount of nothing becomes an empty folder, and Grafana an empty page."""
    missing = [
        source
        for service in COMPOSE["services"].values()
        for source in mounts(service).values()
        if not (CONFIGS / source).exists()
    ]

    home = COMPOSE["services"]["lgtm"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert missing == []
    assert (CONFIGS.parent / "dashboards" / "grafana" / Path(home).name).exists()


def test_compose_names_only_services_ports_and_volumes_that_are_there() -> None:
    """Endpoints in variables point at services; named volumes are declared; builds have their file."""
    services = COMPOSE["services"]
    hosts = {
        host
        for service in services.values()
        for value in service.get("environment", {}).values()
        for host in re.findall(r"(?:http://|[\[ ])([a-z][\w-]*):43\d\d", str(value))
    }
    named = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "$"))
    }

    assert hosts <= set(services)
    assert named == set(COMPOSE["volumes"])
    assert (CONFIGS / COMPOSE["services"]["app"]["build"]["dockerfile"].removeprefix("collector/")).exists()


def collectors() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each Collector of both deployments: its name, its configuration, and the variables it is given."""
    for name, service in COMPOSE["services"].items():
        if service.get("image") == IMAGE:
            [command] = service["command"]
            target = command.removeprefix("--config=")
            yield f"compose {name}", Path(mounts(service)[target]).stem, service["environment"]
    kustomization = yaml.safe_load((CONFIGS / "kustomization.yaml").read_text())
    given = {
        "backend": dict(
            literal.split("=", 1)
            for generator in ("configMapGenerator", "secretGenerator")
            for entry in kustomization[generator]
            if entry["name"] == "backend"
            for literal in entry["literals"]
        )
    }
    for name, manifest in WORKLOADS.items():
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            if container["image"] == IMAGE:
                [argument] = container["args"]
                environment = {entry["name"]: str(entry.get("value")) for entry in container["env"]}
                for reference in container.get("envFrom", []):
                    environment |= given[next(iter(reference.values()))["name"]]
                yield f"kubernetes {name}", Path(argument).stem, environment


@pytest.mark.parametrize(
    ("configuration", "environment"), [pytest.param(*rest, id=name) for name, *rest in collectors()]
)
def test_every_collector_is_given_what_its_configuration_asks_for(
    configuration: str, environment: dict[str, str]
) -> None:
    """No variable that the configuration does not know, none missing that it must have."""
    text = (CONFIGS / f"{configuration}.yaml").read_text()
    known = set(re.findall(r"\$\{env:(\w+)", text))
    required = set(re.findall(r"\$\{env:(\w+)\}", text)) - set(re.findall(r"\$\{env:(\w+):-", text))
    given = {name for name in environment if name.startswith("COLLECTOR_")}

    # One set of variables serves all of a compose file or a ConfigMap; these two are not for every Collector.
    assert given - known <= {"COLLECTOR_QUEUE_DIR", "COLLECTOR_LISTEN_HTTP"}
    assert required <= given


def test_all_three_kinds_of_collector_are_in_both_deployments() -> None:
    """The road is the one that the end-to-end test runs: agent, front, two sampling gateways."""
    found = [(name.split()[0], configuration) for name, configuration, _ in collectors()]

    assert sorted(set(found)) == [
        (where, kind) for where in ("compose", "kubernetes") for kind in ("agent", "gateway-front", "gateway-sampling")
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_is_valid_by_its_schema(name: str) -> None:
    """Kubernetes' own schemas, strictly; for the operators' kinds a closed schema of the part in use."""
    manifest = MANIFESTS[name]
    if manifest["kind"] in CUSTOM:
        assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
        jsonschema.validate(manifest["spec"], CUSTOM[manifest["kind"]])
        return
    library = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

    library.validate(manifest, "1.32", strict=True)


def test_the_front_names_every_sampling_pod() -> None:
    """As many names as replicas, by the StatefulSet's own naming, at the headless service."""
    sampling = MANIFESTS["gateway-sampling/StatefulSet/sampling"]
    service = MANIFESTS["gateway-sampling/Service/sampling"]
    front = next(env for name, kind, env in collectors() if name.startswith("kubernetes") and kind == "gateway-front")

    assert yaml.safe_load(front["COLLECTOR_SAMPLING_GATEWAYS"]) == [
        f"sampling-{number}.{sampling['spec']['serviceName']}:4317" for number in range(sampling["spec"]["replicas"])
    ]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= sampling["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", WORKLOADS)
def test_memory_limits_leave_room_above_the_collectors_own(name: str) -> None:
    """The limiter acts before the kernel does: COLLECTOR_MEMORY_MIB < GOMEMLIMIT or near, < the container's limit."""
    for container in WORKLOADS[name]["spec"]["template"]["spec"]["containers"]:
        if container["image"] != IMAGE:
            continue
        text = (CONFIGS / f"{Path(container['args'][0]).stem}.yaml").read_text()
        limiter = int(re.search(r"COLLECTOR_MEMORY_MIB:-(\d+)", text)[1])
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        soft = int(environment["GOMEMLIMIT"].removesuffix("MiB"))
        hard = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))

        assert limiter < soft < hard
        assert soft / hard == pytest.approx(0.8, abs=0.02)


def test_a_drain_may_last_as_long_as_the_slowest_promised_stream() -> None:
    """The grace period is over the completion objective, so that nobody's promised answer is cut by a deploy."""
    application = MANIFESTS["application/Deployment/chat-backend"]["spec"]["template"]["spec"]
    promised = max(Objectives().thresholds("completion"))

    assert application["terminationGracePeriodSeconds"] > promised
    assert application["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"] == "/drain"


def test_scaling_asks_for_a_series_that_exists() -> None:
    """The trigger's query names the contract's gauge of open streams, and the job that the application has."""
    [trigger] = MANIFESTS["scaling/ScaledObject/chat-backend"]["spec"]["triggers"]
    query = trigger["metadata"]["query"]

    assert query == f'sum({names.STREAM_ACTIVE.prometheus}{{job="chat/chat-backend"}})'


def test_pod_monitors_name_ports_that_the_pods_have() -> None:
    """And the applications' metrics keep their own job and instance."""
    for name, monitor in MANIFESTS.items():
        if monitor["kind"] != "PodMonitor":
            continue
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        matched = [
            workload
            for workload in WORKLOADS.values()
            if wanted <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert matched, name
        for workload in matched:
            ports = {port["name"] for port in workload["spec"]["template"]["spec"]["containers"][0]["ports"]}
            assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
    assert MANIFESTS["podmonitor/PodMonitor/applications"]["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True


def test_kustomize_builds_and_mounts_the_files_that_were_run(tmp_path: Path) -> None:
    """`kubectl kustomize`, also of the folder that `otelstream collector kubernetes` writes."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl")
    held = _collector.holding(Objectives())
    for path, content, _ in _collector.files("kubernetes", held):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)

    done = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    if "kustomize" not in done.stderr and done.returncode and "unknown command" in done.stderr:
        pytest.skip("this kubectl has no kustomize")

    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    [config] = [one for one in built if one["kind"] == "ConfigMap" and "agent.yaml" in one["data"]]
    assert config["data"] == {
        f"{name}.yaml": (CONFIGS / f"{name}.yaml").read_text()
        for name in ("agent", "gateway-front", "gateway-sampling")
    }
    used = {
        volume["configMap"]["name"]
        for one in built
        if one["kind"] in ("DaemonSet", "Deployment", "StatefulSet")
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert used == {config["metadata"]["name"]}


@pytest.mark.usefixtures("binary")
def test_the_demo_application_streams_and_drains(collector: Callable[..., Collector], backend: Backend) -> None:
    """Run as its container runs it: spans arrive by zero code, and a drain waits for the stream that is open."""
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    pytest.importorskip("opentelemetry.distro", reason="pip install 'otelstream[otlp]'")
    agent = collector("agent").start()
    port = free_port()
    environment = os.environ | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{agent.http}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "chat-backend",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "DEMO_PORT": str(port),
        "DEMO_PACE": "0.2",
        "DEMO_USERS": "2",
    }
    application = subprocess.Popen(
        [str(instrument), sys.executable, str(CONFIGS / "compose" / "app.py")], env=environment
    )
    try:
        url = f"http://127.0.0.1:{port}"

        def spans() -> list[Any]:
            return [span for trace in list(backend.spans.values()) for span in list(trace.values())]

        wait_until(lambda: any(names.OUTCOME in span.attributes for span in spans()), limit=60)
        chat = urllib.request.urlopen(f"{url}/chat", timeout=60)
        chat.read(1)
        with urllib.request.urlopen(f"{url}/drain", timeout=60) as drained:
            assert drained.read() == b"0 streams open\n"
        assert len(chat.read()) > 0
        chat.close()
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(f"{url}/ready", timeout=10)
        refused.value.close()

        application.send_signal(signal.SIGTERM)
        assert application.wait(timeout=60) == 0
        wait_until(lambda: len(backend.metrics) > 0)
    finally:
        application.kill()
        application.wait()
