"""Our code fits the real Python bindings of `tensorrt`, whose libraries are not needed for that.

The bindings load once three shared libraries with nine C symbols exist; gcc makes empty ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getNvOnnxParserVersion",
)
# Everything that model.export.tensorrt and model.engine.backends.tensorrt use of this flavour.
USED = {
    "Builder": ["create_network", "create_builder_config", "build_serialized_network"],
    "OnnxParser": ["parse_from_file", "num_errors", "get_error"],
    "ParserError": ["node_operator", "node_name", "desc"],
    "IBuilderConfig": [
        "set_memory_pool_limit",
        "progress_monitor",
        "create_timing_cache",
        "set_timing_cache",
    ],
    "IProgressMonitor": ["phase_start", "step_complete", "phase_finish"],
    "ITimingCache": ["serialize"],
    "ILogger": ["log", "ERROR", "INTERNAL_ERROR", "WARNING"],
    "NetworkDefinitionCreationFlag": ["STRONGLY_TYPED"],
    "MemoryPoolType": ["WORKSPACE"],
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "create_execution_context",
    ],
    "TensorIOMode": ["INPUT", "OUTPUT"],
    "IExecutionContext": ["set_tensor_address", "execute_async_v3"],
}
SCRIPT = """
import json, sys
from model.export import tensorrt
trt = tensorrt.library("standard")
used = json.loads(sys.argv[1])
missing = [f"{c}.{m}" for c, ms in used.items() for m in ms if not hasattr(getattr(trt, c), m)]
tensorrt.make_logger(trt).log(trt.ILogger.ERROR, "tried")
tensorrt.progress_monitor(trt, "graph").step_complete("phase", 1)
print(json.dumps({"version": tensorrt.version("standard"), "missing": missing}))
"""


@pytest.mark.slow
def test_every_name_that_we_use_exists(tmp_path: Path) -> None:
    source = tmp_path / "stub.c"
    source.write_text("\n".join(f"void *{symbol}(void) {{ return 0; }}" for symbol in SYMBOLS))
    for name in LIBRARIES:
        command = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / name), str(source)]
        subprocess.run(command, check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(USED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer == {"version": "11.4.0.106", "missing": []}
