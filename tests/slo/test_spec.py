# SPDX-License-Identifier: Apache-2.0
"""The objectives file: what it accepts, and that bad input is told all at once with path, value and remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from otelstream import _objectives_file as _spec
from otelstream._core.record.objectives import Objectives
from otelstream._objectives_file import ObjectivesError, duration, number, percent, schema, spoken
from otelstream.cli import main
from otelstream.cli._generate import schema_files
from otelstream.slo._bundled import folder, objectives_path

GOOD: dict[str, Any] = {"name": "a", "kind": "first_token", "target": 0.95, "threshold": "2.5s"}


def document(**changes: Any) -> dict[str, Any]:
    return {"objectives": [{k: v for k, v in {**GOOD, **changes}.items() if v is not None}]}


def problems(data: object) -> list[str]:
    with pytest.raises(ObjectivesError) as caught:
        _spec.parse(data)
    return list(caught.value.problems)


class TestGood:
    def test_bundled_file_is_what_the_process_bundles(self) -> None:
        """The committed file and the defaults in the process are the same objectives, with one hash."""
        loaded = _spec.load(objectives_path())

        assert Objectives() == loaded
        assert Objectives().hash == loaded.hash

    def test_bundled_file_spells_out_the_defaults(self) -> None:
        """What the file shows is what applies when it is left out."""
        shown = _spec.load_config(objectives_path())
        objectives = yaml.safe_load(objectives_path().read_text())["objectives"]

        assert _spec.parse({"objectives": objectives}) == shown

    def test_factors_follow_from_the_period(self) -> None:
        """The pairs spend 2, 5, 10 and 10 % of any period's budget; 30 d gives 14.4, 6, 3, 1."""

        def factors(window: str) -> list[Decimal]:
            return [pair.factor for pair in _spec.parse({**document(), "window": window}).promises[0].burn_rates]

        week = factors("7d")

        assert [Decimal("14.4"), 6, 3, 1] == factors("30d")
        assert [Decimal("3.36"), Decimal("1.4"), Decimal("0.7"), Decimal("0.233333")] == week

    def test_json_needs_no_extra(self, tmp_path: Path) -> None:
        """A .json file loads where neither ruamel.yaml nor grafanalib is installed."""
        file = tmp_path / "objectives.json"
        file.write_text(json.dumps(document()))
        code = (
            "import sys; sys.modules['ruamel'] = sys.modules['grafanalib'] = sys.modules['jsonschema'] = None\n"
            f"from otelstream._objectives_file import load; print(load({str(file)!r}).items[0].threshold)"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout == "2.5\n"

    def test_yaml_without_its_library_names_the_extra(self, tmp_path: Path) -> None:
        """Without ruamel.yaml a .yaml file is refused with both remedies."""
        file = tmp_path / "objectives.yaml"
        file.write_text("objectives: []")
        code = (
            "import sys; sys.modules['ruamel.yaml'] = None\n"
            "from otelstream._objectives_file import load\n"
            f"try: load({str(file)!r})\nexcept ValueError as error: print(error)"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert 'pip install "otelstream[dashboards]"' in done.stdout
        assert ".json" in done.stdout

    def test_thresholds_are_seconds(self) -> None:
        """Whole seconds come as int, as histogram bounds want them."""
        found = [
            _spec.parse(document(threshold=text)).promises[0].objective.threshold
            for text in ("800ms", "2.5s", "2m", "120s")
        ]

        assert found == [0.8, 2.5, 120, 120]
        assert [float, float, int, int] == [type(value) for value in found]

    def test_hash_follows_verdicts_only(self) -> None:
        """The hash moves with anything that moves a verdict, and with nothing else."""

        def digest(**changes: Any) -> str:
            return _spec.parse(document(**changes)).objectives.hash

        assert digest() == digest(min_bad=7, description="chat")
        assert digest(threshold="120s") == digest(threshold="2m")
        assert digest(models=["a", "b"]) == digest(models=["b", "a"])
        assert len({digest(), digest(target=0.9501), digest(threshold="2.4s"), digest(routes=["chat"])}) == 4

    def test_an_objective_may_have_pairs_of_its_own(self) -> None:
        """A loose target is usable with its own burn rates."""
        pair = {"severity": "page", "long": "1h", "short": "5m", "factor": 5, "for": "2m"}

        promise = _spec.parse(document(target=0.85, burn_rates=[pair])).promises[0]

        assert [Decimal(5)] == [p.factor for p in promise.burn_rates]


PAIR = {"severity": "page", "long": "1h", "short": "5m", "budget": 0.02, "for": "2m"}
BAD: list[tuple[str, object, list[str]]] = [
    ("no mapping", ["a"], ["holds ['a'], no mapping", "slo init"]),
    ("empty", None, ["holds None, no mapping"]),
    ("no objectives", {}, ["objectives: missing; write `- ...` lines"]),
    ("unknown key", {**document(), "windw": "30d"}, ["windw: unknown key; did you mean `window`?"]),
    ("unknown key inside", document(treshold="2s"), ["objectives[0].treshold: unknown key; did you mean `threshold`?"]),
    (
        "target as percentage",
        document(target=95),
        ["objectives[0].target: 95 is not between 0 and 1; write 0.95 for 95%"],
    ),
    ("target 1", document(target=1), ["objectives[0].target: 1 is not between 0 and 1"]),
    ("target 0", document(target=0), ["objectives[0].target: 0 is not"]),
    ("target nan", document(target=float("nan")), ["objectives[0].target: nan is not"]),
    ("target true", document(target=True), ["objectives[0].target: True is not"]),
    ("target missing", document(target=None), ["objectives[0].target: missing; write a ratio such as 0.99"]),
    ("threshold without unit", document(threshold=2.5), ["objectives[0].threshold: 2.5 has no unit; write it as 2.5s"]),
    ("threshold negative", document(threshold="-2s"), ["objectives[0].threshold: '-2s' is not positive"]),
    ("threshold zero", document(threshold="0s"), ["objectives[0].threshold: '0s' is not positive"]),
    ("threshold missing", document(threshold=None), ["objectives[0].threshold: missing"]),
    (
        "threshold of integrity",
        document(kind="integrity"),
        ["objectives[0].threshold: '2.5s' means nothing for integrity"],
    ),
    ("unknown kind", document(kind="latency"), ["objectives[0].kind: 'latency' is unknown; allowed: first_token"]),
    (
        "fault of another kind",
        document(faults=["timeout"]),
        ["objectives[0].faults: ['timeout'] means nothing for first_token"],
    ),
    (
        "unknown fault",
        document(kind="integrity", threshold=None, faults=["cut"]),
        ["objectives[0].faults[0]: 'cut' is unknown; allowed: provider_error"],
    ),
    ("no name", document(name=None), ["objectives[0].name: missing; use 1-40 of a-z"]),
    ("bad name", document(name="First Token"), ["objectives[0].name: 'First Token' is no name"]),
    (
        "two of one name",
        {"objectives": [GOOD, GOOD]},
        ["objectives[1].name: 'a' is taken by objectives[0]; rename one"],
    ),
    (
        "unreachable",
        document(target=0.9),
        [
            (
                "objectives[0].target: 0.9 leaves a budget of 10%; factor 14.4 (1h/5m) x 0.1 = 1.44 can never be "
                "exceeded; highest usable factor 9.9 (budget 0.0137)"
            ),
        ],
    ),
    ("label name", {**document(), "labels": {"my-team": "a"}}, ["labels.my-team: 'my-team' is no label name"]),
    ("label of ours", {**document(), "labels": {"severity": "a"}}, ["labels.severity: 'severity' is set by the rules"]),
    ("label value", {**document(), "labels": {"team": 3}}, ["labels.team: 3 is no label value"]),
    ("group by", {**document(), "group_by": ["a b"]}, ["group_by[0]: 'a b' is no label"]),
    (
        "short over long",
        {**document(), "burn_rates": [{**PAIR, "short": "2h"}]},
        ["burn_rates[0].short: 2h is not under long (1h)"],
    ),
    (
        "long over window",
        {**document(), "window": "30m", "burn_rates": [PAIR]},
        ["burn_rates[0].long: 1h is not under the window (30m)"],
    ),
    ("budget and factor", {**document(), "burn_rates": [{**PAIR, "factor": 3}]}, ["burn_rates[0].budget: give either"]),
    ("pair twice", {**document(), "burn_rates": [PAIR, PAIR]}, ["burn_rates[1].long: 1h is there twice"]),
    (
        "severity",
        {**document(), "burn_rates": [{**PAIR, "severity": "sms"}]},
        ["burn_rates[0].severity: 'sms' is unknown; allowed: page, ticket"],
    ),
    ("min_bad", {**document(), "min_bad": 0}, ["min_bad: 0 is no whole number"]),
    ("symptom", {**document(), "symptoms": {"hangin": {}}}, ["symptoms.hangin: unknown key; did you mean `hanging`?"]),
    (
        "symptom knob",
        {**document(), "symptoms": {"overflow": {"threshold": 1}}},
        ["symptoms.overflow.threshold: unknown key"],
    ),
    ("version", {**document(), "version": 2}, ["version: 2 is unknown"]),
]


class TestBad:
    @pytest.mark.parametrize(("data", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
    def test_one_problem_has_path_value_and_remedy(self, data: object, said: list[str]) -> None:
        """Each mistake is told once, where it is, with its value and what to write instead."""
        found = problems(data)

        assert len(found) == 1
        for text in said:
            assert text in "\n".join(found)

    @pytest.mark.parametrize("data", [case[1] for case in BAD], ids=[c[0] for c in BAD])
    def test_schema_refuses_what_a_schema_can(self, data: Any) -> None:
        """The editor's schema refuses the same files, arithmetic and cross references apart."""
        beyond = ("taken by", "leaves a budget", "not under", "twice", "set by the rules", "nan")
        found = "\n".join(problems(data))

        valid = jsonschema.Draft202012Validator(schema()).is_valid(data)

        assert valid == any(word in found for word in beyond)

    def test_every_problem_at_once(self) -> None:
        """Mistakes all over the file come in one message."""
        data = {
            **document(target=2, threshold=1, kind="x"),
            "labels": {"1": "a"},
            "nonsense": 1,
            "min_bad": "3",
            "symptoms": {"hanging": {"threshold": -1}},
        }

        assert len(problems(data)) == 7

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: [1", "line 1"),
            ("objectives: []\nobjectives: []", "line 2: key 'objectives' is there twice"),
            ("- a", "no mapping"),
            ("", "no mapping"),
            ("a: !!python/object:os.system x", "line 1: tag"),
            ("\x00", "is no YAML"),
        ],
    )
    def test_what_is_no_yaml_mapping(self, text: str, said: str, tmp_path: Path) -> None:
        """A file that is no YAML mapping is told with its place."""
        file = tmp_path / "o.yaml"
        file.write_text(text)

        with pytest.raises(ObjectivesError, match=said.replace("[", r"\[")):
            _spec.load(file)

    def test_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there names the command that writes one."""
        with pytest.raises(ObjectivesError, match="slo init"):
            _spec.load(tmp_path / "none.yaml")


class TestCommand:
    def test_init_writes_a_file_that_checks(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`slo init` writes the documented file and its schema; `slo check` finds nothing wrong with it."""
        target = tmp_path / "mine.yaml"

        assert main(["slo", "init", "-o", str(target)]) == 0
        assert main(["slo", "check", str(target)]) == 0
        assert (tmp_path / "objectives.schema.json").exists()
        assert "72% are bad in 1h" in capsys.readouterr().out

    def test_init_overwrites_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An existing file stays, exit 2."""
        target = tmp_path / "mine.yaml"
        target.write_text("mine")

        assert main(["slo", "init", "-o", str(target)]) == 2
        assert target.read_text() == "mine"
        assert "--force" in capsys.readouterr().err

    @pytest.mark.parametrize("action", ["rules", "dashboards", "runbook"])
    def test_bad_input_writes_nothing(self, action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Bad input is exit 2 and an untouched folder."""
        file = tmp_path / "o.yaml"
        file.write_text("windw: 1\nobjectives: 3")
        out = tmp_path / "out"

        assert main(["slo", action, str(file), "-o", str(out)]) == 2
        assert not out.exists()
        said = capsys.readouterr().err
        assert "2 problems" in said
        assert "windw" in said

    def test_a_failed_write_leaves_no_halves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When one file cannot be written, no temporary file stays and no target is torn."""
        import os

        from otelstream.cli import _generate

        (tmp_path / "a").write_text("old")
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))

        with pytest.raises(OSError, match="No space"):
            _generate.write(tmp_path, {"a": "new", "b": "new"})

        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_text() == "old"

    def test_check_as_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`--json` prints the hash and the arithmetic for programs."""
        assert main(["slo", "check", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)

        assert found["hash"] == Objectives().hash
        assert found["objectives"][2]["burn_rates"][0]["bad_ratio"] == 0.072

    def test_schema_is_committed(self) -> None:
        """The committed schema is the one the constants make."""
        for name, text in schema_files().items():
            assert (folder() / name).read_text() == text
        jsonschema.Draft202012Validator.check_schema(schema())
        jsonschema.validate(yaml.safe_load(objectives_path().read_text()), schema())


def test_numbers_print_as_people_write_them() -> None:
    """No float noise, no exponents, the largest whole unit."""
    assert [number(v) for v in (0.001, 14.4, 3.0, 1e-7, Decimal("1E2"))] == ["0.001", "14.4", "3", "0.0000001", "100"]
    assert [percent(v) for v in (0.995, 0.001, Decimal("0.072"))] == ["99.5%", "0.1%", "7.2%"]
    assert [duration(v) for v in (300, 3600, 2592000, 2.5, 90)] == ["5m", "1h", "30d", "2500ms", "90s"]
    assert [spoken(v) for v in (2.5, 0.8, 120, 90)] == ["2.5 s", "800 ms", "2 min", "90 s"]
