"""The parts of a gateway process, and the dependencies through which handlers get them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.broker.model_card import ModelCards
from service.broker.owners import OwnerLimits
from service.broker.redis.connection import Broker
from service.broker.stream.events import EventHub
from service.broker.turns.queue import Queue
from service.config import GatewaySettings
from service.gateway.api.schemas import GenerateRequest
from service.gateway.auth import Authenticator, Caller, KeyFileError, Scope
from service.gateway.images.cleaning import ImageLimits
from service.gateway.images.fetch import UrlFetcher
from service.gateway.images.library import ImageLibrary
from service.gateway.intake.admission import Accepted, Admissions, Defaults, idempotency_key_of
from service.gateway.intake.body import BodyBudget, IntakeLimits, read_body
from service.gateway.intake.content import ContentIntake
from service.gateway.intake.validation import SchemaType, parse_body
from service.gateway.problems import Problem
from service.gateway.stream.answers import Answers
from service.gateway.stream.relay import Relay
from service.telemetry import tracing
from service.telemetry.log import request_id_var


def limits_of(settings: GatewaySettings) -> IntakeLimits:
    return IntakeLimits(
        body_bytes=settings.max_body_bytes,
        bodies_bytes=max(settings.max_bodies_bytes, settings.max_body_bytes),
        text_characters=settings.max_text_characters,
        images=settings.max_images_in,
        image=ImageLimits(
            image_pixels=settings.max_image_pixels, images_pixels=settings.max_images_pixels
        ),
    )


def defaults_of(settings: GatewaySettings) -> Defaults:
    return Defaults(
        model=settings.model_name,
        on_disconnect=settings.on_disconnect,
        deadline_ms=settings.deadline_ms,
        max_choices=settings.max_choices,
        owner_limits=OwnerLimits(
            max_concurrent=settings.concurrent_requests or 0,
            requests_per_minute=settings.requests_per_minute or 0,
        ),
    )


def key_file_of(settings: GatewaySettings) -> Path | None:
    """The key file; None if authentication is off.

    Raises:
        KeyFileError: keys are required (the default) but no file is named.
    """
    if settings.auth == "off":
        return None
    if settings.api_keys_file is None:
        raise KeyFileError(
            "no key file is set. Make a key with `mmi keys keys.json --owner NAME` and set "
            "MMI_API_KEYS_FILE=keys.json; or set MMI_AUTH=off to let everybody in."
        )
    return settings.api_keys_file


@dataclass
class Gateway:
    """The parts of a running gateway."""

    settings: GatewaySettings
    limits: IntakeLimits
    broker: Broker
    queue: Queue
    hub: EventHub
    images: ImageLibrary
    answers: Answers
    relay: Relay
    admissions: Admissions
    authenticator: Authenticator
    bodies: BodyBudget

    @classmethod
    def build(cls, settings: GatewaySettings) -> Gateway:
        """Put the parts together; nothing is connected yet.

        Raises:
            KeyFileError: keys are required and there is no readable key file.
        """
        authenticator = Authenticator(key_file_of(settings))
        limits, broker = limits_of(settings), Broker(settings)
        queue, hub, images = Queue(broker), EventHub(broker), ImageLibrary(broker)
        answers = Answers(images, settings.model_name)
        fetcher = UrlFetcher(settings.image_url_hosts, limits.image, settings.image_url_authorities)
        content = ContentIntake(images, fetcher, ModelCards(broker), limits)
        return cls(
            settings=settings,
            limits=limits,
            broker=broker,
            queue=queue,
            hub=hub,
            images=images,
            answers=answers,
            relay=Relay(queue, hub, answers, settings.ping_s),
            admissions=Admissions(queue, content, defaults_of(settings)),
            authenticator=authenticator,
            bodies=BodyBudget(limits),
        )


async def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(gateway_of)]
Credentials = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(scheme_name="key", auto_error=False)),
]


def caller_with(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, if the key has this scope (401 or 403 otherwise)."""

    async def caller(http: Request, gateway: GatewayDep, credentials: Credentials) -> Caller:
        found = gateway.authenticator.identify(credentials.credentials if credentials else None)
        http.state.owner = found.owner
        found.require(scope)
        return found

    return caller


Reader = Annotated[Caller, Depends(caller_with("read"))]
Author = Annotated[Caller, Depends(caller_with("generate"))]


def name_request(http: Request, request_id: str) -> None:
    """Have this process's log lines of an HTTP request carry the id of the generation it is about.

    Workers' lines carry the same id.
    """
    http.state.accepted_id = request_id
    request_id_var.set(request_id)


def accept(
    schema: type[SchemaType],
    translate: Callable[[SchemaType], GenerateRequest],
    *,
    uploads: bool = False,
) -> Callable[..., Awaitable[Accepted[SchemaType]]]:
    """A dependency: the body is read, validated, translated and enqueued."""

    async def accepted(
        http: Request,
        gateway: GatewayDep,
        caller: Author,
        idempotency_key: Annotated[str | None, Header()] = None,
        # For the OpenAPI document; `AccessLog` has read it.
        traceparent: Annotated[str | None, Header()] = None,
    ) -> Accepted[SchemaType]:
        with tracing.span("admission"), gateway.bodies.reserve(http):
            body = await read_body(http, gateway.limits)
            if body.uploads and not uploads:
                raise Problem("unused_upload", param=min(body.uploads))
            document = await parse_body(schema, body.document)
            key = idempotency_key_of(idempotency_key, lambda: body.fingerprint(http.url.path))
            request, created = await gateway.admissions.accept(
                translate(document), body.uploads, caller, key, http.state.traceparent
            )
        name_request(http, request.request_id)
        return Accepted(document, request, created)

    return accepted
