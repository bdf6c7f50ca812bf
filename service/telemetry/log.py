"""JSON logs, one object a line, without prompts, images or answers."""

from __future__ import annotations

import contextvars
import logging
import sys
import time
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id_var: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "request_id", default=None
)


class RoleFormatter(JsonFormatter):
    """A record as one JSON object, with the role, the request's id and the fields in `extra`."""

    def __init__(self, role: str) -> None:
        super().__init__(
            "%(message)s",
            rename_fields={"exc_info": "exception"},
            # uvicorn repeats the message in terminal colours.
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )
        self.role = role

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        log_data |= {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": self.role,
            "logger": record.name,
        }
        if request_id := request_id_var.get():
            log_data["request_id"] = request_id
        super().add_fields(log_data, record, message_dict)


def configure(role: str, level: str = "INFO") -> None:
    """Send all logs of this process to stderr as JSON; called once, by the process's main."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RoleFormatter(role))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn.access", "onnx_ir", "onnxscript"):  # A line for each node of a graph.
        logging.getLogger(name).setLevel("WARNING")
