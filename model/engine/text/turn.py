"""One turn of text as a state: output of vLLM goes in, deltas and the turn's end come out."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from vllm.outputs import RequestOutput

from model.config.schema import SpecialTokens
from model.engine.protocol import TextDelta, TextEnd
from model.engine.text.detokenizer import Detokenizer
from model.engine.text.prompt import TurnPrompt
from model.engine.text.scores import TokenScores
from model.sampling_params import ImageMode, SamplingParams


class Turn:
    """A turn from its prompt, which ends with the `resume` ids already generated, to its end."""

    def __init__(
        self,
        prompt: TurnPrompt,
        resume: tuple[int, ...],
        sampling: SamplingParams,
        max_tokens: int,
        images: ImageMode,
        special: SpecialTokens,
        tokenizer: Tokenizer,
    ) -> None:
        self.prompt, self.resume, self.ids = prompt, resume, list(resume)
        self.max_tokens, self.images = max_tokens, images
        self._sampling, self._special = sampling, special
        self._num_prompt = len(prompt.token_ids) - len(resume)
        self._num_cached = 0
        prompt_ids = prompt.token_ids[: self._num_prompt]
        self._text = Detokenizer(tokenizer, prompt_ids, sampling.stop, sampling.min_tokens)
        self._text.feed(resume)

    @property
    def context(self) -> TurnPrompt:
        """The prompt with all that was generated behind it."""
        return self.prompt.extended(tuple(self.ids[len(self.resume) :]))

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the turn, which vLLM does not notice."""
        return self._text.stopped

    @property
    def ended(self) -> bool:
        """Whether no token is to be sampled any more."""
        ends = (self._special.soi_token_id, self._special.eos_token_id)
        return (
            self.images == "force"
            or self.stopped
            or len(self.ids) >= self.max_tokens
            or (bool(self.ids) and self.ids[-1] in ends)
        )

    @property
    def begins_image(self) -> bool:
        """Whether the turn, having ended, is followed by an image."""
        last = self.ids[-1] if self.ids else None
        return self.images == "force" or (last == self._special.soi_token_id and not self.stopped)

    def take(self, output: RequestOutput, scores: TokenScores) -> TextDelta | None:
        """Newly sampled tokens; None if they yield nothing."""
        self._num_cached = output.num_cached_tokens or self._num_cached
        completion = output.outputs[0]
        text, used = self._text.feed(completion.token_ids)
        new = tuple(completion.token_ids[:used])
        self.ids += new
        if output.finished and not self.stopped:
            text += self._text.flush()
        if not used:
            return None
        num_top, reported = self._sampling.logprobs, completion.logprobs
        if num_top is None or reported is None:
            return TextDelta(text, new)
        return TextDelta(text, new, scores.read(new, reported[:used], num_top))

    def end(self) -> TextEnd:
        """The last event of a turn that no image follows."""
        last = self.ids[-1] if self.ids else None
        done = self.stopped or last == self._special.eos_token_id
        counts = (self._num_prompt, self._num_cached, len(self.ids))
        return TextEnd("stop" if done else "length", *counts)

    def end_with_image(
        self, image_tokens: torch.Tensor, num_cached: int, anchored: bool
    ) -> TextEnd:
        """The last event of a turn that begins an image.

        `num_cached` is how much of the context was found in the cache to make the image tokens; it
        is reported if no text was generated.
        """
        cached = self._num_cached if self.ids else num_cached
        counts = (self._num_prompt, cached, len(self.ids))
        return TextEnd("image", *counts, image_tokens, anchored)
