"""From the official names of a checkpoint to the modules inside vLLM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch

from model.config.schema import MMInterleavedConfig

Weights = Iterable[tuple[str, torch.Tensor]]

_LLM = "mm_decoder."
_VISION = "visual_tokenizer."
_SYNCHRONIZER = ".llama_cross_attn."
_EMBEDDING = "mm_decoder.embed_tokens.weight"
_HEADS = ("text_decoder.", "soi_token")


class OfficialWeights:
    """Sorts a checkpoint's tensors by module, and drops the image decoder's."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        self.config = config
        self.vision: dict[str, torch.Tensor] = {}
        self.synchronizers: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        self._ends: dict[str, torch.Tensor] = {}

    def llama(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of the language model under vLLM's names; collect the others."""
        for name, tensor in weights:
            if name.startswith(_VISION):
                self.vision[name.removeprefix(_VISION)] = tensor
            elif name == _EMBEDDING or name.startswith(_HEADS):
                self._ends[name] = tensor
            elif name.startswith(_LLM) and _SYNCHRONIZER in name:
                layer, parameter = name.split(_SYNCHRONIZER)
                self.synchronizers[int(layer.rsplit(".", 1)[1])][parameter] = tensor
            elif name.startswith(_LLM):
                yield "model." + name.removeprefix(_LLM), tensor
        yield "model.embed_tokens.weight", self._embedding()
        yield "lm_head.weight", self._head("weight")
        yield "lm_head.bias", self._head("bias")

    def _embedding(self) -> torch.Tensor:
        """The input embeddings, `soi_token` added to its token's row."""
        embedding_VD = self._ends[_EMBEDDING].float().clone()
        soi = self.config.special_tokens.soi_token_id
        embedding_VD[soi] += self._ends["soi_token"].float().view(-1)
        return embedding_VD

    def _head(self, kind: str) -> torch.Tensor:
        """The output head, the new tokens' own head added to their rows."""
        head = self._ends[f"text_decoder.head.{kind}"].float().clone()
        new = self._ends[f"text_decoder.head_new.{kind}"].float()
        head[len(head) - len(new) :] += new
        return head
