"""How its ranks compute is in test_ranks.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint.store import CheckpointError
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.follower import RankHolder


@pytest.fixture
def options(checkpoint: Path, tmp_path: Path) -> TextEngineOptions:
    return TextEngineOptions(
        checkpoint,
        cache_dir=tmp_path,
        tensor_parallel_size=2,
        num_hosts=2,
        host_rank=1,
        leader_address="text-0.text:29501",
    )


def test_a_host_holds_nothing_before_it_runs(options: TextEngineOptions) -> None:
    holder = RankHolder(options)
    assert not holder.started
    holder.stop()
    assert not holder.started


def test_it_joins_the_leader_as_a_host_of_its_number(options: TextEngineOptions) -> None:
    arguments = RankHolder(options)._arguments
    assert (arguments.node_rank, arguments.nnodes, arguments.tensor_parallel_size) == (1, 2, 2)
    assert (arguments.master_addr, arguments.master_port) == ("text-0.text", 29501)


def test_a_checkpoint_that_is_missing_is_found_before_any_rank_starts(
    options: TextEngineOptions, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        RankHolder(replace(options, checkpoint=tmp_path / "none"))
