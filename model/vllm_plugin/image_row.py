"""One row per placeholder: its embedding, and its share of the image's feature vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.config.schema import MMInterleavedConfig
from model.visual_tokenizer.visual_tokenizer import VisualFeatures


def image_rows(visual: VisualFeatures, config: MMInterleavedConfig) -> torch.Tensor:
    """Pack images into the rows of their placeholders, [N, T, D + vectors_per_token * C].

    Vectors are divided by their root mean square here: all synchronizer layers do that first, and
    differ only in the weight that follows, which is folded into their projection.
    """
    by_side = {map_NCss.shape[-1]: map_NCss for map_NCss in visual.maps}
    vectors_NVC = torch.cat(
        [by_side[side].flatten(2).transpose(1, 2) for side in config.spatial_shapes], dim=1
    )
    square_NV1 = vectors_NVC.float().square().mean(-1, keepdim=True)
    vectors_NVC = vectors_NVC.float() * (square_NV1 + config.llm.rms_norm_eps).rsqrt()
    tokens, packed = config.num_img_token, config.vectors_per_token
    vectors_NVC = F.pad(vectors_NVC, (0, 0, 0, tokens * packed - vectors_NVC.shape[1]))
    rows_NTX = vectors_NVC.reshape(len(vectors_NVC), tokens, -1)
    return torch.cat((visual.tokens_NTD, rows_NTX.to(visual.tokens_NTD.dtype)), dim=-1)
