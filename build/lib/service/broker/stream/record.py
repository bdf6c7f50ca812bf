"""Converts between the messages of the service and what the Lua scripts store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from service.errors import DecodeError
from service.messages import (
    Event,
    Reason,
    Request,
    RequestStatus,
    State,
    StoredEvent,
    StoredFailure,
    Usage,
    choice_of,
    decode_result,
)


def fields_of(flat: Iterable[Any]) -> dict[str, bytes]:
    """A reply of Redis (field, value, field, ...) as a mapping."""
    if isinstance(flat, Mapping):
        return {key.decode(): value for key, value in flat.items()}
    iterator = iter(flat)
    return {key.decode(): value for key, value in zip(iterator, iterator, strict=True)}


def parse_status(request_id: str, fields: Mapping[str, bytes], document: bytes) -> RequestStatus:
    """The status of a request or choice.

    Args:
        request_id: of the request or choice.
        fields: its record.
        document: the request as accepted, of which a choice is derived.

    Raises:
        DecodeError: a field is missing or malformed.
    """
    try:
        request, number = Request.decode(document), choice_of(request_id)
        parts = sorted(int(name[5:]) for name in fields if name.startswith("part:"))
        return RequestStatus(
            request=request if number is None else request.choices[number],
            state=cast(State, fields["state"].decode()),
            turn=int(fields["turn"]),
            created_ms=int(fields["created"]),
            deadline_at_ms=int(fields["deadline"]),
            finished_ms=int(fields["finished"]) if "finished" in fields else None,
            results=tuple(decode_result(fields[f"part:{index}"]) for index in parts),
            usage=Usage.decode(fields.get("usage", b"{}")),
            reason=cast(Reason, fields["reason"].decode()) if "reason" in fields else None,
            error=StoredFailure.decode(fields["error"]) if "error" in fields else None,
        )
    except (LookupError, ValueError) as error:
        raise DecodeError("not a request's record") from error


def parse_event(request_id: str, entry_id: bytes, flat: Iterable[Any]) -> StoredEvent:
    """An event from its stream entry."""
    fields = fields_of(flat)
    return stored_event(
        request_id, entry_id.decode(), int(fields["n"]), fields["t"], fields["d"], fields.get("k")
    )


def stored_event(
    request_id: str,
    entry_id: str,
    number: int,
    kind: str | bytes,
    data: str | bytes,
    token_ids: bytes | None = None,
) -> StoredEvent:
    """An event from its parts; `data` is JSON."""
    return StoredEvent.model_construct(
        id=entry_id,
        sequence_number=number,
        request_id=request_id,
        type=kind.decode() if isinstance(kind, bytes) else kind,
        raw=data.decode() if isinstance(data, bytes) else data,
        token_ids=tuple(int(i) for i in token_ids.split(b",")) if token_ids else (),
    )


def flatten(events: Sequence[tuple[Event, str]], choice: int | None = None) -> list[str | int]:
    """Events as arguments of the scripts: their count, then type, data and token ids of each.

    The events of a choice carry its number, and begin or end the choice, not the response.
    """
    flat: list[str | int] = [len(events)]
    for event, token_ids in events:
        kind, data = event.type, event.model_dump_json(exclude={"type"})
        if choice is not None:
            kind = kind.replace("response.", "choice.")
            document = {"choice": choice} | json.loads(data)
            data = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        flat += (kind, data, token_ids)
    return flat
