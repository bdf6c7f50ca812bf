"""The connector without an engine: when hidden states are written, and which."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from model.vllm_plugin.cache.hidden_states import PATH_KEY, Extraction, HiddenStatesConnector


def connector() -> HiddenStatesConnector:
    made = object.__new__(HiddenStatesConnector)
    made._watched = {}
    made._kv_cache_manager = SimpleNamespace(get_block_ids=lambda request_id: ([3, 1],))
    return made


def request(name: str, path: str | None, computed: int) -> SimpleNamespace:
    params = {PATH_KEY: path} if path else None
    return SimpleNamespace(
        request_id=name,
        kv_transfer_params=params,
        num_computed_tokens=computed,
        num_prompt_tokens=6,
    )


def test_a_request_is_extracted_in_the_step_that_completes_its_prompt() -> None:
    made = connector()
    for one in (request("early", "/e", 0), request("done", "/d", 4), request("none", None, 4)):
        made.on_new_request(one)
    step = SimpleNamespace(num_scheduled_tokens={"early": 2, "done": 2, "none": 2})
    assert made.build_connector_meta(step).extractions == [Extraction("/d", [3, 1], 6)]
    assert made.request_finished_all_groups(request("done", "/d", 6), ()) == (False, None)
    assert not made.build_connector_meta(step).extractions


def test_rows_are_written_in_the_order_of_the_blocks(tmp_path: Path) -> None:
    made = connector()
    made._cache = torch.arange(4 * 4 * 2.0).view(4, 1, 4, 2)
    path = tmp_path / "hidden.safetensors"
    made._write(Extraction(str(path), [3, 1], 6))
    hidden_LD = load_file(path)[PATH_KEY]
    assert hidden_LD[:, 0].tolist() == [24, 26, 28, 30, 8, 10]
    assert list(tmp_path.iterdir()) == [path]
