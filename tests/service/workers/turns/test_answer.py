from __future__ import annotations

from service.messages import AnswerLimits
from tests.faults.engines import expected_answer
from tests.service.workers.conftest import Stage


async def test_limits_end_the_answer_as_incomplete(stage: Stage) -> None:
    await stage.start("text")
    await stage.start("image")
    request = await stage.submit("limits", limits=AnswerLimits(max_tokens=100, max_images=1))
    events = await stage.events(request)
    assert events[-1].type == "response.incomplete"
    assert events[-1].data == {"reason": "max_images"}
    assert (await stage.answer(events)) == expected_answer("limits", 0)[:3]
    request = await stage.submit("limits", limits=AnswerLimits(max_tokens=3))
    events = await stage.events(request)
    assert events[-1].data == {"reason": "max_tokens"}
    assert (await stage.queue.status(request.request_id)).reason == "max_tokens"
