"""The text side of MM-Interleaved in vLLM: visual tokenizer, Llama with synchronizers, head.

Before the decoder runs, a step writes token-local facts to cache-only layers and derives which
images its tokens see; after it, the step stores the final hidden states.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from model.synchronizer.geometry import Geometry
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer
from model.vllm_plugin.cache.features import PagedImageFeatures
from model.vllm_plugin.cache.layer import CacheNames, TokenCacheLayer
from model.vllm_plugin.cache.plan import plan_step, token_classes
from model.vllm_plugin.cache.token_bytes import CLASS_WIDTH
from model.vllm_plugin.decoder.layer import InterleavedDecoderLayer
from model.vllm_plugin.decoder.weights import OfficialWeights
from model.vllm_plugin.multimodal import (
    ImageDummyInputs,
    ImageProcessingInfo,
    ImageProcessor,
    image_rows,
)


@MULTIMODAL_REGISTRY.register_processor(
    ImageProcessor, info=ImageProcessingInfo, dummy_inputs=ImageDummyInputs
)
class InterleavedForConditionalGeneration(nn.Module, SupportsMultiModal):  # type: ignore[misc]
    requires_raw_input_tokens = True
    packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        hf_config = vllm_config.model_config.hf_config
        self.config = config = hf_config.interleaved
        self.block_size = vllm_config.cache_config.block_size
        self.geometry = Geometry.of_text(config)
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            self.visual_tokenizer = VisualTokenizer(config).eval()
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.model = LlamaModel(
                vllm_config=vllm_config,
                prefix=maybe_prefix(prefix, "model"),
                layer_type=InterleavedDecoderLayer,
            )
        self.lm_head = ParallelLMHead(
            config.txt_vocab_size,
            config.llm.hidden_size,
            bias=True,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        self.logits_processor = LogitsProcessor(config.txt_vocab_size)
        names = CacheNames.after(config.llm.num_hidden_layers)
        self.features = PagedImageFeatures(vllm_config, names.features, self.geometry)
        self.classes = TokenCacheLayer(vllm_config, names.classes, CLASS_WIDTH)
        self.hidden_states = TokenCacheLayer(
            vllm_config, names.hidden_states, config.llm.hidden_size
        )
        # Features of the step's placeholders, from the merge of embeddings to the forward pass.
        self._pending: tuple[torch.Tensor, torch.Tensor] | None = None

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None: prompts are token ids, without placeholders in text."""
        return None

    def embed_multimodal(self, pixel_values: torch.Tensor, **_: object) -> list[torch.Tensor]:
        """Encode images: for each, [tokens, D + features of a token]."""
        dtype = self.visual_tokenizer.pos_proj.weight.dtype
        visual = self.visual_tokenizer(pixel_values.to(dtype))
        return list(image_rows(visual, self.config).unbind(0))

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: list[torch.Tensor] | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed tokens and images, and keep the features until this step's `forward`."""
        embeds_TD = self.model.embed_input_ids(input_ids)
        self._pending = None
        if multimodal_embeddings is not None and len(multimodal_embeddings) > 0:
            assert is_multimodal is not None
            rows_MX = torch.cat(tuple(multimodal_embeddings)).to(embeds_TD.dtype)
            token_M = is_multimodal.nonzero().view(-1).to(embeds_TD.device, non_blocking=True)
            width = embeds_TD.shape[-1]
            embeds_TD = embeds_TD.index_copy(0, token_M, rows_MX[:, :width])
            self._pending = (token_M, rows_MX[:, width:])
        return embeds_TD

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        """Final hidden states of the step's tokens, [T, D]."""
        self._begin_step(input_ids, positions)
        hidden_TD = self.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        metadata = self.hidden_states.metadata()
        if metadata is not None:
            self.hidden_states.write(metadata, hidden_TD)
        return hidden_TD

    def _begin_step(self, input_ids_T: torch.Tensor, positions_T: torch.Tensor) -> None:
        """Write the facts about this step's tokens, then derive what they see: in this order."""
        pending, self._pending = self._pending, None
        metadata = self.classes.metadata()
        self.features.sight = None
        if metadata is None:
            return
        special = self.config.special_tokens
        class_T = token_classes(input_ids_T, special.image_token_id, special.bos_token_id)
        self.classes.write(metadata, class_T[:, None].expand(-1, CLASS_WIDTH))
        if pending is not None:
            self.features.write_images(metadata, *pending)
        self.features.sight = plan_step(
            self.classes.rows, metadata, positions_T, self.geometry.max_images, self.block_size
        )

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits over the whole vocabulary, new tokens included."""
        return self.logits_processor(self.lm_head, hidden_states, self.lm_head.bias)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a checkpoint with the official names, and fold its synchronizers."""
        official = OfficialWeights(self.config)
        loader = AutoWeightsLoader(self)
        loaded: set[str] = loader.load_weights(
            official.llama(weights), mapper=LlamaModel.hf_to_vllm_mapper
        )
        self.visual_tokenizer.load_state_dict(official.vision)
        for index, parameters in official.synchronizers.items():
            self.model.layers[index].llama_cross_attn.load(parameters)
        return loaded | {name for name, _ in self.named_parameters() if _loaded_elsewhere(name)}


def _loaded_elsewhere(name: str) -> bool:
    """Whether a parameter is not loaded through vLLM's loader."""
    return name.startswith("visual_tokenizer.") or ".llama_cross_attn." in name
