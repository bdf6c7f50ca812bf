"""What one gateway process holds, made at its start; routes get it from the application."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastapi import Request

from service.broker.connection import Broker
from service.broker.model_card import ModelCards
from service.broker.owners import OwnerLimits
from service.broker.stream.events import EventHub
from service.broker.turns.queue import Queue
from service.config import GatewaySettings
from service.gateway.auth import Authenticator, Caller, KeyFileError, Scope
from service.gateway.intake.admission import Admissions, Defaults
from service.gateway.intake.body import BodyBudget
from service.gateway.intake.fetch import UrlFetcher
from service.gateway.intake.limits import Limits
from service.gateway.stream.answers import Answers
from service.gateway.stream.images import ImageLibrary
from service.gateway.stream.relay import Relay


def limits_of(settings: GatewaySettings) -> Limits:
    """The request budgets that the settings ask for."""
    return Limits(
        body_bytes=settings.max_body_bytes,
        bodies_bytes=max(settings.max_bodies_bytes, settings.max_body_bytes),
        text_characters=settings.max_text_characters,
        images=settings.max_images_in,
        choices=settings.max_choices,
        image_pixels=settings.max_image_pixels,
        images_pixels=settings.max_images_pixels,
    )


def key_file_of(settings: GatewaySettings) -> Path | None:
    """The key file; None if authentication is off.

    Raises:
        KeyFileError: keys are wanted (the default) but no file is named.
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
    limits: Limits
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
        """Put the parts together; nothing is connected yet."""
        limits, broker = limits_of(settings), Broker(settings)
        queue, hub, images = Queue(broker), EventHub(broker), ImageLibrary(broker)
        answers = Answers(images, settings.model_name)
        defaults = Defaults(
            model=settings.model_name,
            on_disconnect=settings.on_disconnect,
            deadline_ms=settings.deadline_ms,
            owner_limits=OwnerLimits(
                max_concurrent=settings.concurrent_requests or 0,
                requests_per_minute=settings.requests_per_minute or 0,
            ),
        )
        fetcher = UrlFetcher(settings.image_url_hosts, limits, settings.image_url_authorities)
        return cls(
            settings=settings,
            limits=limits,
            broker=broker,
            queue=queue,
            hub=hub,
            images=images,
            answers=answers,
            relay=Relay(queue, hub, answers, settings.ping_s),
            admissions=Admissions(queue, images, fetcher, ModelCards(broker), limits, defaults),
            authenticator=Authenticator(key_file_of(settings)),
            bodies=BodyBudget(limits),
        )


def gateway_of(request: Request) -> Gateway:
    """The gateway that handles a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


def caller_of(request: Request, scope: Scope) -> Caller:
    """Who sent a request, if they may do that.

    Raises:
        AuthenticationFailed, PermissionDenied: they may not.
    """
    caller = gateway_of(request).authenticator.identify(request.headers.get("authorization"))
    caller.require(scope)
    return caller
