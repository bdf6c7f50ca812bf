"""The manifests that it writes are checked in `tests/k8s`; here, its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cli import main
from service.commands.autoscaling import scaled_object


def test_the_number_of_partitions_is_the_setting_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMI_NUM_PARTITIONS", "2")
    for arguments, expected in (([], 2), (["--partitions", "5"], 5)):
        assert main(["autoscaling", "--out", str(tmp_path), *arguments]) == 0
        for stage in ("text", "image"):
            text = (tmp_path / f"{stage}-worker.yaml").read_text()
            assert text == scaled_object(stage, expected)
            number = 8 if stage == "text" else 4  # Text workers look at the images as well.
            assert text.count("type: redis-streams") == number * expected
