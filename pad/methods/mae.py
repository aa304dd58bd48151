"""Masked autoencoder (arXiv 2111.06377; casiatao/PAD ``pre-training/mae/models_mae.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from msip.errors import RunError, WeightsError
from pad.adapters import PadConfig, attach_adapters
from pad.encoders.layouts import from_pad_reference
from pad.methods.base import Method, MethodOutput, gather_tokens, install_visible_patches, only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class NoiseSampler:
    """One uniform number a patch; the smallest stay visible."""

    patches: int

    def __call__(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """``noise`` float32 (patches,)."""
        return {"noise": rng.random(self.patches, dtype=np.float32)}


class MAE(Method):
    """Hide most patches, encode the visible ones, predict the pixels of the hidden ones.

    Args:
        encoder: a timm ViT; its ``head`` is not used.
        mask_ratio: share of hidden patches.
        norm_pix_loss: predict each patch normalised by its own mean and (unbiased) variance + 1e-6.
        decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder; the reference's by default.
    """

    # The reference freezes whatever is called "decoder_embed" once adapters are on (main_pretrain.py).
    frozen_with_adapters: ClassVar[tuple[str, ...]] = ("decoder_embed",)

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
    ) -> None:
        super().__init__(encoder)
        if decoder_embed_dim % (4 if decoder_embed_dim % decoder_num_heads == 0 else decoder_num_heads):
            raise RunError(
                f"--decoder-embed-dim {decoder_embed_dim} must be a multiple of 4 and of --decoder-num-heads "
                f"{decoder_num_heads}; choose e.g. 512 and 16."
            )
        self.mask_ratio, self.norm_pix_loss = mask_ratio, norm_pix_loss
        self.visible = int(self.patches * (1 - mask_ratio))
        if not 0 < self.visible < self.patches:
            raise RunError(
                f"--mask-ratio {mask_ratio} leaves {self.visible} of {self.patches} patches visible; "
                "at least one must be visible and one hidden."
            )
        # A list, so that the module does not become a part of this one too: it belongs to the encoder.
        self._visible_patches = [install_visible_patches(encoder)]
        self.prefix_tokens = int(self.encoder.num_prefix_tokens)
        self.channels = int(self.encoder.patch_embed.proj.in_channels)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.decoder_embed = nn.Linear(self.encoder.embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        positions = sincos_positions(decoder_embed_dim, self.grid, self.prefix_tokens)
        self.register_buffer("decoder_pos_embed", positions, persistent=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = norm(decoder_embed_dim)
        height, width = self.patch_size
        self.decoder_pred = nn.Linear(decoder_embed_dim, height * width * self.channels)
        self._initialise_decoder()

    def _initialise_decoder(self) -> None:
        """As the reference: Xavier-uniform matrices, zero biases, a normal(0.02) mask token."""
        nn.init.normal_(self.mask_token, std=0.02)
        for head in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            for module in head.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def sampler(self) -> NoiseSampler:
        """Draws ``noise`` of one sample."""
        return NoiseSampler(self.patches)

    def forward(self, images: Tensor, noise: Tensor | None = None, **_: Tensor | None) -> MethodOutput:
        """Reconstruct what is hidden.

        Args:
            images: (b, c, h, w), normalised.
            noise: (b, patches); the patches with the smallest values stay visible, in argsort order. Drawn if ``None``.

        Returns:
            prediction (b, patches, patch height * width * c), mask (b, patches).
        """
        if noise is None:
            noise = torch.rand(len(images), self.patches, device=images.device)
        shuffle = torch.argsort(noise, dim=1, stable=True)
        restore = torch.argsort(shuffle, dim=1)
        with only(self._visible_patches[0], shuffle[:, : self.visible]):
            tokens = self.encoder.forward_features(images)
        prediction = self._decode(tokens, restore)
        mask = (restore >= self.visible).to(prediction.dtype)
        return MethodOutput(self._loss(images, prediction, mask), prediction, mask)

    def _decode(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Encoder tokens (b, prefix + visible, D) to predictions (b, patches, values)."""
        x = self.decoder_embed(tokens)
        prefix, visible = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        hidden = self.mask_token.to(x.dtype).expand(len(x), self.patches - self.visible, -1)
        patches = gather_tokens(torch.cat((visible, hidden), dim=1), restore)
        x = torch.cat((prefix, patches), dim=1) + self.decoder_pos_embed.to(x.dtype)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, self.prefix_tokens :]

    def _loss(self, images: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error over the hidden patches, in float32."""
        target = self.patchify(images.float())
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        error = (prediction.float() - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def patchify(self, images: Tensor) -> Tensor:
        """(b, c, h, w) to (b, patches, patch height * patch width * c), pixels before channels."""
        (rows, columns), (height, width) = self.grid, self.patch_size
        x = images.reshape(len(images), self.channels, rows, height, columns, width)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(len(images), rows * columns, -1)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of ``patchify``."""
        (rows, columns), (height, width) = self.grid, self.patch_size
        x = patches.reshape(len(patches), rows, columns, height, width, self.channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), self.channels, rows * height, columns * width)

    def panel(self, images: Tensor, output: MethodOutput) -> tuple[Tensor, ...]:
        """(input, input with hidden patches at 0, reconstruction with the visible patches pasted in).

        Predictions of normalised patches are brought back with the patch's own mean and deviation, so that the
        reconstruction looks like the image.
        """
        target = self.patchify(images.float())
        prediction = output.prediction.float()
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            prediction = prediction * (variance + 1e-6).sqrt() + mean
        hidden = output.mask.float().unsqueeze(-1)
        masked, reconstruction = target * (1 - hidden), target * (1 - hidden) + prediction * hidden
        return images, self.unpatchify(masked), self.unpatchify(reconstruction)

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> MAE:
        """The model whose weights stand under the reference repository's names.

        Args:
            state_dict: its tensors.
            metadata: dimensions, as strings: ``img_size``, ``patch_size``, ``embed_dim``, ``depth``, ``num_heads``,
                ``decoder_embed_dim``, ``decoder_depth``, ``decoder_num_heads``, ``down_size``, ``patchwise``,
                ``scale``, ``fusion``, ``mask_ratio``, ``norm_pix_loss``.

        Raises:
            WeightsError: tensors are missing, unexpected or of another shape.
        """
        method = cls(
            _reference_encoder(metadata),
            mask_ratio=float(metadata["mask_ratio"]),
            norm_pix_loss=metadata.get("norm_pix_loss", "True") == "True",
            decoder_embed_dim=int(metadata["decoder_embed_dim"]),
            decoder_depth=int(metadata["decoder_depth"]),
            decoder_num_heads=int(metadata["decoder_num_heads"]),
        )
        parts = from_pad_reference(dict(state_dict))
        tensors = {f"encoder.{name}": tensor for name, tensor in parts.encoder.items()} | parts.head
        positions = tensors.pop("decoder_pos_embed", None)
        if positions is not None:
            method.decoder_pos_embed.copy_(positions)
        try:
            method.load_state_dict(tensors)
        except RuntimeError as error:
            raise WeightsError(f"these weights do not fit their own metadata: {' '.join(str(error).split())}") from error
        return method


def _reference_encoder(metadata: Mapping[str, str]) -> nn.Module:
    encoder = VisionTransformer(
        img_size=int(metadata["img_size"]),
        patch_size=int(metadata["patch_size"]),
        embed_dim=int(metadata["embed_dim"]),
        depth=int(metadata["depth"]),
        num_heads=int(metadata["num_heads"]),
        num_classes=0,
    )
    config = PadConfig(
        down_size=int(metadata["down_size"]),
        scale="patchwise" if metadata.get("patchwise", "True") == "True" else "fixed",
        fusion=metadata.get("fusion", "concat"),  # type: ignore[arg-type]
        scale_init=float(metadata.get("scale", "0.5")),
    )
    return attach_adapters(encoder, config)


def sincos_positions(embed_dim: int, grid: tuple[int, int], prefix_tokens: int) -> Tensor:
    """Fixed 2-D sine-cosine table (1, prefix + rows * columns, embed_dim), zero for prefix tokens.

    The first half encodes the column, the second the row, as in MAE's ``util/pos_embed.py``.
    """
    quarter = embed_dim // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    parts = []
    for position in (columns, rows):
        angles = position.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    table = torch.cat([torch.zeros(prefix_tokens, embed_dim, dtype=torch.float64), torch.cat(parts, dim=1)])
    return table.float()[None]
