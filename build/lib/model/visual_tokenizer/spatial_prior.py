"""The convolutional prior of the ViT-Adapter.

Legend: N images, L tokens, C channels, D width, h/w rows and columns of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpatialPrior(nn.Module):
    """Convolutions over the image: maps of 1/4, 1/8, 1/16 and 1/32 of its side."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, inner, stride=2),
            *_convolution(inner, inner, stride=1),
            *_convolution(inner, inner, stride=1),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = nn.Sequential(*_convolution(inner, 2 * inner, stride=2))
        self.conv3 = nn.Sequential(*_convolution(2 * inner, 4 * inner, stride=2))
        self.conv4 = nn.Sequential(*_convolution(4 * inner, 4 * inner, stride=2))
        self.fc1 = nn.Conv2d(inner, width, kernel_size=1)
        self.fc2 = nn.Conv2d(2 * inner, width, kernel_size=1)
        self.fc3 = nn.Conv2d(4 * inner, width, kernel_size=1)
        self.fc4 = nn.Conv2d(4 * inner, width, kernel_size=1)

    def forward(self, pixels_N3hw: Tensor, level_embed_3D: Tensor) -> tuple[Tensor, Tensor]:
        """The finest map [N, D, h, w], and the other three as tokens [N, L, D]."""
        # The fastest memory layout for the convolutions and for the norms between them.
        quarter = self.stem(pixels_N3hw.contiguous(memory_format=torch.channels_last))
        eighth = self.conv2(quarter)
        sixteenth = self.conv3(eighth)
        maps_NDhw = (
            self.fc2(eighth),
            self.fc3(sixteenth),
            self.fc4(self.conv4(sixteenth)),
        )
        tokens_NLD = [
            map_NDhw.flatten(2).transpose(1, 2) + embed_D
            for map_NDhw, embed_D in zip(maps_NDhw, level_embed_3D, strict=True)
        ]
        return self.fc1(quarter), torch.cat(tokens_NLD, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map, in float32."""

    def forward(self, x_NChw: Tensor) -> Tensor:
        """[N, C, h, w]."""
        weight_C, bias_C = self.weight.float(), self.bias.float()
        x_NhwC = x_NChw.permute(0, 2, 3, 1).float()
        out_NhwC = F.layer_norm(x_NhwC, self.normalized_shape, weight_C, bias_C, self.eps)
        return out_NhwC.to(x_NChw.dtype).permute(0, 3, 1, 2)


def _convolution(d_in: int, d_out: int, stride: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Convolution, norm and ReLU, as three entries of an `nn.Sequential`."""
    convolution = nn.Conv2d(d_in, d_out, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, ChannelNorm(d_out, eps=1e-6), nn.ReLU()
