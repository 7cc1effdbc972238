# SPDX-License-Identifier: Apache-2.0
"""The committed configurations, by text and by the real binary's own check."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from otelstream import _semconv as names

from .fleet import BINARY, CONFIGS, Collector, collector_environment, validate

FILES = ["agent", "gateway-front", "gateway-sampling"]
LAYERINGS = [
    ("agent",),
    ("agent", "redaction"),
    ("agent", "span-to-metrics"),
    ("agent", "span-to-metrics", "redaction"),
    ("gateway-front",),
    ("gateway-front", "redaction"),
    ("gateway-sampling",),
]
PLACES = {
    "local": {"COLLECTOR_EXPORT_ENDPOINT": "http://127.0.0.1:4318"},
    "gateway": {"COLLECTOR_EXPORT_ENDPOINT": "http://gateway-front:4318"},
    "hosted": {
        "COLLECTOR_EXPORT_ENDPOINT": "https://otlp.example.com/otlp",
        "COLLECTOR_EXPORT_HEADERS": "{authorization: Basic bm9ib2R5Om5vdGhpbmc=}",
    },
    "scraped": {
        "COLLECTOR_EXPORT_ENDPOINT": "http://127.0.0.1:4318",
        "COLLECTOR_METRICS_EXPORTERS": "[prometheus]",
    },
}
GATEWAYS = {"COLLECTOR_SAMPLING_GATEWAYS": "[sampling-0.sampling:4317, sampling-1.sampling:4317]"}


def text(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layers", LAYERINGS, ids="+".join)
def test_every_layering_is_valid_everywhere(layers: tuple[str, ...], place: str) -> None:
    """Each file and each layering passes `validate` for every place, by environment variables only."""
    done = validate(*(CONFIGS / f"{layer}.yaml" for layer in layers), **PLACES[place], **GATEWAYS)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize(
    ("name", "unset", "says"),
    [
        *((name, "COLLECTOR_EXPORT_ENDPOINT", "at least one endpoint must be specified") for name in FILES),
        ("gateway-front", "COLLECTOR_SAMPLING_GATEWAYS", "no endpoints specified for the static resolver"),
    ],
)
def test_a_variable_that_must_be_set_is_named_when_it_is_not(name: str, unset: str, says: str, tmp_path: Path) -> None:
    """Starting without a required variable fails, and names the variable and the field it leaves empty."""
    environment = PLACES["local"] | GATEWAYS | {"COLLECTOR_QUEUE_DIR": str(tmp_path)}
    del environment[unset]

    done = subprocess.run(
        [str(BINARY), f"--config={CONFIGS / name}.yaml"],
        env=collector_environment(environment),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert f'unset environment variable	{{"name": "{unset}"}}' in done.stderr
    assert says in done.stderr


@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize(
    ("name", "variable", "value", "says"),
    [
        ("agent", "COLLECTOR_MEMORY_MIB", "lots", "'limit_mib' expected type 'uint32'"),
        (
            "agent",
            "COLLECTOR_METRICS_EXPORTERS",
            "[promtheus]",
            'references exporter "promtheus" which is not',
        ),
        ("gateway-sampling", "COLLECTOR_DECISION_WAIT", "long", "'decision_wait' time: invalid duration"),
        (
            "gateway-sampling",
            "COLLECTOR_SAMPLE_PERCENT",
            "a tenth",
            "sampling_percentage' expected type 'float64'",
        ),
    ],
)
def test_a_wrong_value_names_its_field(name: str, variable: str, value: str, says: str) -> None:
    """A value of the wrong kind fails `validate` with the field it was meant for."""
    done = validate(CONFIGS / f"{name}.yaml", **PLACES["local"] | GATEWAYS | {variable: value})

    assert done.returncode == 1
    assert says in done.stderr


def test_the_memory_limiter_is_first_in_every_pipeline() -> None:
    """A flood is refused before anything is done with it."""
    pipelines = {
        (name, pipeline): settings.get("processors", [])
        for name in (*FILES, "redaction", "span-to-metrics")
        for pipeline, settings in yaml.safe_load(text(name))["service"]["pipelines"].items()
        if settings.get("receivers", ["otlp"]) == ["otlp"]
    }

    assert {processors[0] for processors in pipelines.values()} == {"memory_limiter"}


KNOWN = {value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)} | {
    metric.name for metric in names.METRICS
}


@pytest.mark.parametrize("name", [*FILES, "span-to-metrics"])
def test_configurations_spell_no_name_of_their_own(name: str) -> None:
    """Each otelstream.* and gen_ai.* name in a configuration is one of the telemetry contract's."""
    spelled = set(re.findall(r"\b(?:otelstream|gen_ai)\.[a-z_.]+[a-z_]", text(name)))
    # The connector appends its own word to the namespace; what comes of it is renamed or dropped there.
    connector = {"gen_ai.client.operation", "gen_ai.client.operation.calls"}

    assert spelled - KNOWN - connector == set()


def test_policies_spell_only_values_of_the_closed_sets() -> None:
    """Each value that a policy compares with is in the closed set of its attribute."""
    policies = yaml.safe_load(text("gateway-sampling"))["processors"]["tail_sampling"]["policies"]
    closed = {label.attribute: set(label.values) for label in names.LABELS if label.values}
    compared = {
        policy["string_attribute"]["key"]: set(policy["string_attribute"]["values"])
        for policy in policies
        if policy["type"] == "string_attribute"
    }

    assert compared.keys() == {names.OUTCOME, names.CANCEL_PROPAGATION}
    assert all(values <= closed[key] for key, values in compared.items())


def test_no_policy_compares_numbers_as_int64() -> None:
    """`numeric_attribute` never matches a double, so number conditions are OTTL."""
    policies = yaml.safe_load(text("gateway-sampling"))["processors"]["tail_sampling"]["policies"]

    assert "numeric_attribute" not in {policy["type"] for policy in policies}


def test_native_histograms_have_the_conventions_bounds() -> None:
    """A series has one set of buckets, whether the process or the agent makes it."""
    connectors = yaml.safe_load(text("span-to-metrics"))["connectors"]
    for settings in connectors.values():
        buckets = [int(bound.removesuffix("ms")) for bound in settings["histogram"]["explicit"]["buckets"]]
        assert buckets == [round(bound * 1000) for bound in names.CLIENT_DURATION.bounds]


def test_every_variable_has_one_prefix_and_one_default_a_file() -> None:
    """A variable means one thing in a file: two places with two defaults would be a trap."""
    for name in (*FILES, "span-to-metrics"):
        defaults: dict[str, set[str]] = {}
        for variable, default in re.findall(r"\$\{env:(\w+)(?::-([^}$]*))?", text(name)):
            assert variable.startswith("COLLECTOR_")
            defaults.setdefault(variable, set()).add(default)
        assert {variable: found for variable, found in defaults.items() if len(found) > 1} == {}


def test_the_builder_manifest_is_of_one_version() -> None:
    """Components of mixed versions do not build, or build what nobody tested."""
    manifest = yaml.safe_load(text("builder"))
    versions = {
        part: {entry["gomod"].rsplit(" v", 1)[1] for entry in manifest[part]}
        for part in ("extensions", "receivers", "processors", "connectors", "exporters", "providers")
    }

    assert {version for part, found in versions.items() if part != "providers" for version in found} == {
        manifest["dist"]["version"]
    }
    assert len(versions["providers"]) == 1
    assert f"version={manifest['dist']['version']}" in (CONFIGS / "build.sh").read_text()


@pytest.mark.usefixtures("binary")
def test_an_agent_starts_and_stops_without_its_backend(tmp_path: Path) -> None:
    """A backend that is away keeps no agent from starting, nor from ending when told to."""
    agent = Collector("agent", home=tmp_path, COLLECTOR_EXPORT_ENDPOINT="http://127.0.0.1:9").start()
    time.sleep(0.1)

    assert agent.stop() < 10


def test_the_readme_has_every_variable() -> None:
    """A setting nobody can find is none; one in the table that is gone misleads."""
    used = {
        variable
        for name in (*FILES, "span-to-metrics")
        for variable in re.findall(r"\$\{env:(COLLECTOR_\w+)", text(name))
    }

    assert set(re.findall(r"`(COLLECTOR_[A-Z_]+)`", (CONFIGS / "README.md").read_text())) == used


def build_in(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the build script in an empty checkout."""
    (folder / "collector").mkdir()
    for name in ("build.sh", "builder.yaml"):
        shutil.copy(CONFIGS / name, folder / "collector" / name)
    return subprocess.run(
        ["/bin/sh", str(folder / "collector" / "build.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def without_go(tmp_path: Path) -> dict[str, str]:
    """An environment with what the build script needs but Go."""
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "mkdir", "cksum", "cut", "ln"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return {"PATH": str(tmp_path / "bin"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_the_build_says_that_go_is_missing(without_go: dict[str, str], tmp_path: Path) -> None:
    """`make collector` without Go: one line that says what to install, or what to set instead."""
    done = build_in(tmp_path, **without_go)

    assert done.returncode == 1
    assert "Go is missing; install Go 1.25 or later" in done.stderr
    assert "OTELSTREAM_COLLECTOR" in done.stderr


def test_what_was_built_is_kept_for_other_checkouts(without_go: dict[str, str], tmp_path: Path) -> None:
    """The Collector of this version and manifest is taken as it is; that of another manifest is not."""
    manifest = (CONFIGS / "builder.yaml").read_bytes()
    version = yaml.safe_load(manifest)["dist"]["version"]
    sum_ = subprocess.run(["cksum"], input=manifest, capture_output=True, check=True).stdout.split()[0].decode()
    for name, found in ((f"collector-{version}-{sum_}", 0), (f"collector-{version}-1", 1)):
        checkout, kept = tmp_path / str(found), tmp_path / f"cache-{found}" / "otelstream" / name
        for folder in (checkout, kept):
            folder.mkdir(parents=True)
        (kept / "otelstream-collector").touch(0o755)

        done = build_in(checkout, **without_go | {"XDG_CACHE_HOME": str(tmp_path / f"cache-{found}")})

        assert done.returncode == found, done.stderr
        link = checkout / ".tools" / "bin" / "otelstream-collector"
        assert link.is_symlink() is not bool(found)
        assert found or link.resolve() == kept / "otelstream-collector"


def test_the_build_says_that_the_network_is_missing(tmp_path: Path) -> None:
    """Without a module proxy the build ends with 1 and the question to ask."""
    if not (go := shutil.which("go")):
        pytest.skip("no Go")
    path = f"{Path(go).parent}:/usr/bin:/bin"
    home = str(tmp_path)

    done = build_in(tmp_path, PATH=path, HOME=home, GOPROXY="off", GOFLAGS="-modcacherw", GOTOOLCHAIN="local")

    assert done.returncode == 1
    assert "is a Go module proxy reachable?" in done.stderr


ENV = CONFIGS / "env"
PORT = re.compile(r"(?:127\.0\.0\.1:|_PORT=)(\d+)$", re.MULTILINE)


def test_one_machine_can_run_them_all() -> None:
    """Each environment file names a whole configuration and only variables of it, and no two listen on one port."""
    taken: list[str] = []
    for file in sorted(ENV.iterdir()):
        lines = [line.partition("=") for line in file.read_text().splitlines() if not line.startswith("#")]
        given = {name: value for name, _, value in lines}
        name = given.pop("COLLECTOR_CONFIG").removesuffix(".yaml")
        assert file.stem.startswith(name)
        assert text(name).startswith("# Whole.")
        assert all(f"${{env:{variable}" in text(name) for variable in given), file.name
        # What it does not set is the default of its configuration.
        for variable, default in re.findall(r"\$\{env:(COLLECTOR_\w+):-(?:127\.0\.0\.1:)?(\d+)\}", text(name)):
            if re.search("LISTEN|PROMETHEUS|HEALTH|PORT", variable):
                taken.append(re.sub(r"^.*:", "", given.get(variable, default)))
    assert len(taken) >= 12
    assert len(set(taken)) == len(taken), sorted(taken)


@pytest.mark.parametrize("name", ["redaction", "span-to-metrics"])
def test_a_layer_says_so(name: str) -> None:
    """Its first words tell that it starts nothing by itself."""
    assert text(name).startswith("# A layer.")
