from __future__ import annotations

import asyncio

import pytest
import uvloop

from service import loop


def test_a_role_runs_on_uvloop() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert loop.run(main()) == uvloop.__name__


def test_an_error_of_the_role_reaches_the_caller() -> None:
    async def main() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        loop.run(main())
