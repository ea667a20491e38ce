"""What was measured is written, whatever fails at the end; and what can fail is tried before anything is measured."""

import importlib.metadata
import os
import sys
from pathlib import Path

import httpx
import pytest
from helpers.eval_command import Eval, message, result
from helpers.fake_endpoint import FakeEndpoint
from helpers.running import Running

from wave_serve import NOT_INSTALLED, version
from wave_serve.cli import added
from wave_serve.eval import command, results

COMMANDS = ("perplexity", "passkey")


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a source tree: no package of that name is installed."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(importlib.metadata, "metadata", missing)


def asked(kind: str, endpoint: FakeEndpoint, text: Path, out: Path) -> tuple[object, ...]:
    return (kind, "--base-url", f"x={endpoint.url}", "--text", text, "--out", out, "--lengths", "2")


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.usefixtures("not_installed")
def test_a_source_tree_measures_and_writes(
    kind: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    assert wave_eval(*asked(kind, endpoint, text, tmp_path / "out")).status == 0
    found = result(tmp_path / "out", kind)
    assert found["rows"]
    assert found["error"] is None
    assert found["versions"]["wave-serve"] == NOT_INSTALLED


@pytest.mark.usefixtures("not_installed")
def test_everything_else_that_asks_for_the_version_works_there_too(gateway: Running) -> None:
    assert httpx.get(f"{gateway.url}/openapi.json").json()["info"]["version"] == NOT_INSTALLED
    entry = importlib.metadata.EntryPoint("train", "no_such_module:train", added.GROUP)
    with pytest.raises(added.CommandUnavailableError, match="`train` needs no_such_module"):
        added.load_command(entry)


def test_an_installed_package_has_its_version() -> None:
    assert version() == importlib.metadata.version("wave-serve")


@pytest.mark.parametrize("broken", ["write_json", "write_markdown", "print_table", "draw"])
def test_an_output_that_fails_keeps_no_other_from_being_written(
    broken: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, broken, fail)
    out = tmp_path / "out"
    ran = wave_eval(*asked("passkey", endpoint, text, out), plot=True)
    assert ran.status == 1
    said = message(ran)
    assert "cannot write " in said
    assert "No space left on device" in said
    assert "what was measured is kept in" in said
    files = {"write_json": {"passkey.json"}, "write_markdown": {"passkey.md"}, "draw": {"passkey.png", "passkey.svg"}}
    whole = {"passkey.jsonl", "passkey.json", "passkey.md", "passkey.png", "passkey.svg"}
    assert {path.name for path in out.iterdir()} >= whole - files.get(broken, set())
    assert ("exact" in ran.out) == (broken != "print_table")


def test_a_mistake_of_ours_in_the_middle_loses_nothing(
    endpoint: FakeEndpoint, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wave_serve.cli import main as cli

    answered = iter(range(2))

    def fault(path: str, _body: dict) -> None:
        if path == "/v1/completions" and next(answered, None) is None:
            monkeypatch.setattr("wave_serve.eval.endpoint.Endpoint.complete", mistake)

    async def mistake(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    endpoint.fault = fault
    arguments = [*map(str, asked("passkey", endpoint, text, tmp_path / "out")), "--no-plot"]
    monkeypatch.setattr(sys, "argv", ["wave-serve", "eval", *arguments])
    with pytest.raises(ZeroDivisionError):
        cli.main()
    found = result(tmp_path / "out", "passkey")
    assert found["error"] == "ended by a mistake in this program"
    assert found["rows"]


def test_a_disk_that_fills_up_ends_a_run_as_any_other_failure(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    journal = tmp_path / "out" / "passkey.jsonl"

    def fault(path: str, _body: dict) -> None:
        if path == "/v1/completions" and len(endpoint.completions) == 4:
            [number] = [each.name for each in Path("/proc/self/fd").iterdir() if each.resolve() == journal]
            with Path("/dev/full").open("wb") as full:
                os.dup2(full.fileno(), int(number))

    endpoint.fault = fault
    ran = wave_eval(*asked("passkey", endpoint, text, tmp_path / "out"))
    said = f"cannot write {journal}: No space left on device"
    assert message(ran) == f"{said}; what was measured is kept in {tmp_path / 'out'}, go on with --resume"
    found = result(tmp_path / "out", "passkey")
    assert found["error"] == said
    assert found["rows"][0]["trials"] == len(journal.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("name", ["passkey.json", "passkey.md", "passkey.json.tmp"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    name: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    ran = wave_eval(*asked("passkey", endpoint, text, tmp_path / "out"))
    assert message(ran) == f"cannot write {tmp_path / 'out' / name}: it is a directory"
    assert endpoint.completions == []


def test_a_plotting_library_that_does_not_work_is_told_before_anything_is_measured(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    ran = wave_eval(*asked("passkey", endpoint, text, tmp_path / "out"), plot=True)
    assert message(ran).startswith("matplotlib does not work here (ModuleNotFoundError: ")
    assert endpoint.completions == []


def test_a_number_that_json_does_not_have_is_not_written_as_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_json(path, "passkey", [], {}, [{"a": float("nan")}], None)
    assert not path.exists()
