from __future__ import annotations

import argparse

import pytest

from service.commands.generate import add_arguments, parameters, run


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["a cat", *arguments])


def test_the_server_has_the_defaults() -> None:
    assert parameters(parsed()) == {}


def test_arguments_become_fields_of_the_request() -> None:
    document = parameters(
        parsed("--n", "2", "--seed", "3", "--only", "text", "--deadline-ms", "9", "--steps", "4")
    )
    assert (document["n"], document["seed"], document["deadline_ms"]) == (2, 3, 9)
    assert document["output_modalities"] == ["text"]
    assert document["image"] == {"steps": 4, "seed": 3}


def test_several_answers_need_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parsed("--offline", "--n", "2")) == 2
    assert "needs a service" in capsys.readouterr().out


def test_an_unreachable_gateway_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parsed("--url", "http://127.0.0.1:9")) == 1
    assert "no connection to http://127.0.0.1:9" in capsys.readouterr().out
