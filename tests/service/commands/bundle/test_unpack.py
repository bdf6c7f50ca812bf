from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.cli import main
from service.commands.bundle import unpack

ROOT = Path(__file__).resolve().parents[4]


def test_parts_may_come_one_at_a_time(small: Path, tmp_path: Path) -> None:
    into, names = tmp_path / "into", sorted(path.name for path in small.glob("bundle.*"))
    for number, name in enumerate(names):
        arrived = tmp_path / f"arrived-{number}"
        arrived.mkdir()
        for file in (name, "manifest.json"):
            (arrived / file).write_bytes((small / file).read_bytes())
        last = number == len(names) - 1
        assert unpack.main(["--parts", str(arrived), "--into", str(into)]) == (0 if last else 2)
    assert (into / "project" / "service" / "code.py").read_text() == "A = 1\n"
    assert not (into / "project" / "tests" / "data").exists()
    assert (into / "checkpoints/model/deep/weights").read_bytes() == bytes(range(256)) * 100
    assert (into / "site" / "small_thing.py").read_text() == "VALUE = 7\n"


def test_a_damaged_part_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = small / "bundle.001"
    good = part.read_bytes()
    part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    arguments = ["--parts", str(small), "--into", str(tmp_path / "into")]
    assert unpack.main(arguments) == 1
    assert "bundle.001 is damaged" in capsys.readouterr().err
    assert not (tmp_path / "into" / "project").exists()
    part.write_bytes(good)
    assert unpack.main(arguments) == 0
    # One that is damaged where it is kept is noticed too, and asked for again.
    kept = tmp_path / "into" / "parts" / "bundle.002"
    kept.write_bytes(b"!" + kept.read_bytes()[1:])
    assert unpack.main(arguments) == 1
    assert "has been deleted" in capsys.readouterr().err
    assert unpack.main(arguments) == 0


def test_a_machine_without_pip_is_told_so(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("executable", "_base_executable"):
        monkeypatch.setattr(sys, name, "/bin/false")
    assert unpack.main(["--parts", str(small), "--into", str(tmp_path / "into")]) == 1
    assert "/bin/false has no pip" in capsys.readouterr().err


def test_a_bundle_of_another_format_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((small / "manifest.json").read_text()) | {"format": 99}
    (small / "manifest.json").write_text(json.dumps(manifest))
    assert unpack.main(["--parts", str(small), "--into", str(tmp_path / "into")]) == 1
    assert "not 99" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_the_project_runs_from_its_bundle(tmp_path: Path) -> None:
    """As a user does it: `mmi bundle`, then `unpack.py` by a Python of its own."""
    out, into, no_wheels = tmp_path / "bundle", tmp_path / "into", tmp_path / "none"
    no_wheels.mkdir()
    checkpoint = ROOT / "deploy" / "checkpoints" / "tiny"
    words = ["--out", str(out), "--part-size", "8MiB", "--wheels", str(no_wheels)]
    assert main(["bundle", *words, "--checkpoint", str(checkpoint)]) == 0
    command = [sys.executable, str(out / "unpack.py"), "--into", str(into)]
    subprocess.run(command, check=True, cwd=tmp_path)
    done = subprocess.run(
        [str(into / "mmi"), "--help"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert "gateway" in done.stdout
    plugins = "importlib.metadata.entry_points(group='vllm.general_plugins')"
    code = f"import service, importlib.metadata; print(service.__file__, {plugins})"
    shell = f". '{into}/environment'; exec '{sys.executable}' -c \"{code}\""
    done = subprocess.run(
        ["sh", "-c", shell], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith(f"{into}/project/service/__init__.py")
    assert "model.vllm_plugin:register" in done.stdout
    assert (into / "checkpoints" / "tiny" / "config.json").is_file()
    report = [str(into / "mmi"), "bench", "gpu", "--rehearse", "--limit-s", "1"]
    done = subprocess.run(report, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, "image-step: no time left" in done.stdout) == (1, True), done.stderr
