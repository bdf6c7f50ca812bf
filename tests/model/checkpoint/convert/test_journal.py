"""A killed conversion resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from model.checkpoint import store
from model.checkpoint.convert.from_official import ConvertOptions, convert
from tests.model import golden
from tests.model.checkpoint.convert.official_files import assert_same, read_all, silent

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from model.checkpoint.convert.from_official import ConvertOptions, convert

    def die_in_second_file(name, done, total):
        if name.startswith("model-00002") and done > 0.5 * total:
            os.kill(os.getpid(), signal.SIGKILL)

    convert(Path(sys.argv[1]), Path(sys.argv[2]), ConvertOptions(), die_in_second_file)
"""


def test_killed_conversion_goes_on_where_it_was(layout: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(layout), str(target)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    first = target / "model-00001-of-00003.safetensors"
    assert first.is_file()
    assert not (target / "model-00002-of-00003.safetensors").exists()
    assert not (target / store.MANIFEST).exists()
    os.utime(first, ns=(1, 1))

    convert(layout, target, ConvertOptions(), silent)

    assert first.stat().st_mtime_ns == 1, "a finished file was written again"
    assert_same(read_all(target), golden.state_dict())
    assert not list(target.glob(".*"))
    store.verify(target)
