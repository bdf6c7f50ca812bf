"""The Triton kernels that a run launches: recorded while interpreted, compiled afterwards.

usage: python -m tests.model.engine.text.gpu.launches FILE CAPABILITY...

A process records each kernel once for every combination of types and constants, one JSON line each.
Another one, in which Triton does not interpret, compiles them for compute capabilities such as 90.
That takes Triton's compiler and ptxas, both of the package `triton`, and no card.
"""

from __future__ import annotations

import importlib
import json
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

_POINTERS = {
    "torch.bfloat16": "*bf16",
    "torch.bool": "*i1",
    "torch.float16": "*fp16",
    "torch.float32": "*fp32",
    "torch.int32": "*i32",
    "torch.int64": "*i64",
    "torch.int8": "*i8",
    "torch.uint8": "*u8",
    "torch.uint64": "*u64",
}
# Arguments of a launch that are no arguments of the kernel.
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "launch_pdl", "maxnreg")


def record(path: Path) -> None:
    """Append every new launch of this process, and of those that it forks, to a file."""
    from triton.runtime.interpreter import InterpretedFunction

    run, seen = InterpretedFunction.run, set()

    def recorded(self: Any, *arguments: Any, grid: Any, warmup: bool, **keywords: Any) -> Any:
        named = dict(zip(self.arg_names, arguments, strict=False)) | keywords
        described = {name: _describe(value) for name, value in named.items()}
        launch = [self.fn.__module__, self.fn.__qualname__, described]
        line = json.dumps(launch, sort_keys=True)
        if line not in seen:
            seen.add(line)
            with path.open("a") as file:
                file.write(line + "\n")
        return run(self, *arguments, grid=grid, warmup=warmup, **keywords)

    InterpretedFunction.run = recorded


def _describe(value: Any) -> Any:
    """An argument as JSON: a tensor as its pointer's type, a number as itself."""
    import torch
    import triton.language as tl

    if isinstance(value, tl.constexpr):
        value = value.value
    if isinstance(value, torch.Tensor):
        return {"pointer": _POINTERS[str(value.dtype)]}
    if isinstance(value, tl.dtype):
        return {"type": value.name}
    return value if isinstance(value, (bool, float, str, type(None))) else int(value)


def compile_for(launch: list[Any], capability: int) -> None:
    """Compile one launch; raises what Triton raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name, described = launch
    kernel = attrgetter(name)(importlib.import_module(module))
    while not hasattr(kernel, "params"):  # Heuristics and tuning wrap kernels.
        kernel = kernel.fn
    signature, constants = {}, {}
    for parameter in kernel.params:
        value = described.get(parameter.name, parameter.default)
        kind = _type_of(value)
        if parameter.is_constexpr or kind is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = _constant(value)
        else:
            signature[parameter.name] = kind
    options = {name: described[name] for name in _OPTIONS if described.get(name) is not None}
    triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options=options,
    )


def _type_of(value: Any) -> str | None:
    """Triton's name of an argument's type; None for what it compiles in."""
    if isinstance(value, dict):
        return value.get("pointer")
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32" if isinstance(value, float) else None


def _constant(value: Any) -> Any:
    import triton.language as tl

    if not isinstance(value, dict):
        return value
    return getattr(tl, _LONG.get(value["type"], value["type"]))


_LONG = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "i32": "int32", "i64": "int64"}


def main(path: Path, capabilities: list[int]) -> None:
    """Compile everything in a file; prints a JSON line for each kernel."""
    from tests.model.engine.text.gpu import platform

    platform.install(2, interpret=False)
    launches = [json.loads(line) for line in path.read_text().splitlines()]
    for launch in launches:
        for capability in capabilities:
            compile_for(launch, capability)
        print(json.dumps(f"{launch[0]}:{launch[1]}"), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
