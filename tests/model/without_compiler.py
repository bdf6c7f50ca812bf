"""An environment in which no C or C++ compiler is found."""

from __future__ import annotations

import os
import re
from pathlib import Path

_COMPILER = re.compile(r"(.*-)?(cc|c89|c99|c\+\+|gcc|g\+\+|clang|clang\+\+|cpp|tcc)(-[\d.]+)?")


def environment(directory: Path) -> dict[str, str]:
    """This process' environment, its PATH replaced by links to everything but compilers."""
    tools = directory / "tools"
    tools.mkdir()
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        for tool in folder.iterdir() if folder.is_dir() else ():
            link = tools / tool.name
            if not _COMPILER.fullmatch(tool.name) and not link.is_symlink():
                link.symlink_to(tool)
    caches = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "VLLM_CACHE_ROOT": "vllm"}
    return {
        **os.environ,
        "PATH": str(tools),
        "CXX": "/nonexistent/c++",
        **{name: str(directory / folder) for name, folder in caches.items()},
    }
