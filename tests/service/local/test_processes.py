"""Roles as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.local.processes import RoleFailed, RoleProcess


def test_a_role_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    role = RoleProcess("gateway", 1, {"MMI_PORT": "not a number"}, tmp_path / "log")
    role.start()
    role.wait(120)
    with pytest.raises(RoleFailed, match="port"):
        role.check()
