"""The layouts that ViT weights come in, recognised by their key names, each turned into one set of names.

After conversion the encoder has timm's names, adapters are ``blocks.<i>.adapter.*``, and what belongs to a pre-training
head keeps the names of ``pad.methods``, which are those of MAE (``decoder_blocks.*``, ``mask_token``). The heads of
DINO and iBOT, which come twice, keep theirs: ``teacher.head.*``, ``student.head.*``, ``student.backbone.masked_embed``.

Nothing is dropped: a tensor without a place here keeps its name and ends in ``LoadReport.unexpected``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from msip.errors import WeightsError
from pad.adapters.attach import ADAPTER
from pad.adapters.bottleneck import PadConfig, Scale
from pad.adapters.lora import merge_lora
from pad.weights.files import State

ENCODER = "encoder."  # how a pre-training method names its encoder's tensors
TEACHER = "teacher/"  # and those of a teacher that is its moving average, with slashes for dots

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_HEAD = ("decoder_", "mask_token")
_HF_EMBEDDING = "embeddings.patch_embeddings.projection.weight"

# open-mmlab: mmselfsup and mmpretrain name their ViT alike, MAE and MILAN decoders included
_MM_NAMES = (
    (re.compile(r"^layers\."), "blocks."),
    (re.compile(r"\.ffn\.layers\.0\.0\."), ".mlp.fc1."),
    (re.compile(r"\.ffn\.layers\.1\."), ".mlp.fc2."),
    (re.compile(r"\.ln(\d)\."), r".norm\1."),
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
)
# Hugging Face ViT, DeiT, DINOv2 and ViTMAE; query, key and value are joined afterwards
_HF_NAMES = (
    (re.compile(r"^embeddings\.cls_token$"), "cls_token"),
    (re.compile(r"^embeddings\.distillation_token$"), "dist_token"),
    (re.compile(r"^embeddings\.register_tokens$"), "reg_token"),
    (re.compile(r"^embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^encoder\.layer\."), "blocks."),
    (re.compile(r"^decoder_(?:layers|encoder\.layer)\."), "decoder_blocks."),
    (re.compile(r"^layernorm\."), "norm."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.attention\.attention\."), ".attn."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
    (re.compile(r"\.layer_scale(\d)\.lambda1$"), r".ls\1.gamma"),
)
_PAD_NAMES = {
    ".adaptmlp.adapter_layer_norm_before.": ".adapter.norm.",
    ".adaptmlp.down_proj.": ".adapter.down.",
    ".adaptmlp.up_proj.": ".adapter.up.",
    ".adaptmlp.scale": ".adapter.scale",
    ".scalar_pred.": ".adapter.scale_predictor.",
}


@dataclass(frozen=True)
class Parts:
    """Weights under this project's names: the encoder's (adapters included), the head's, and the layout they had."""

    encoder: State
    head: State = field(default_factory=dict)
    layout: str = ""


def averaged(state: State) -> State:
    """A method's tensors with those that a teacher follows replaced by the teacher's; without one as they are."""
    return {name: state.get(TEACHER + name.replace(".", "/"), tensor) for name, tensor in state.items()}


def from_run(state: State) -> Parts:
    """A checkpoint of this project: the encoder under ``encoder.`` (LoRA is merged), the method's head beside it.

    Of iBOT these are the teacher's, as its authors evaluate it.
    """
    state = averaged(state)
    encoder = {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    return Parts(merge_lora(encoder), {name: tensor for name, tensor in state.items() if not name.startswith(ENCODER)})


def from_pad_reference(state: State) -> Parts:
    """casiatao/PAD ``models_mae.py``: adapters as ``blocks.<i>.adaptmlp.*`` and ``blocks.<i>.scalar_pred.weight``."""
    return from_mae({_renamed(name): tensor for name, tensor in state.items()})


def to_pad_reference(state: State) -> State:
    """An encoder with adapters under the reference's key names: the inverse of ``from_pad_reference``."""
    renamed: State = {}
    for name, tensor in state.items():
        theirs = name
        for reference, ours in _PAD_NAMES.items():
            theirs = theirs.replace(ours, reference) if reference != ".adaptmlp.scale" else theirs
        renamed[theirs.replace(".adapter.scale", ".adaptmlp.scale")] = tensor
    return renamed


def from_mae(state: State) -> Parts:
    """facebookresearch/mae: timm's names, the decoder beside them."""
    head = {name: tensor for name, tensor in state.items() if name.startswith(_HEAD)}
    return Parts({name: tensor for name, tensor in state.items() if name not in head}, head)


def from_timm(state: State) -> Parts:
    """A timm ViT, with this project's adapters or without; MAE's encoder-only and Facebook's DINO, DINOv2 files too."""
    names = {name: re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name) for name in state}  # DINOv2's block chunks
    return Parts({"reg_token" if names[n] == "register_tokens" else names[n]: tensor for n, tensor in state.items()})


def from_backbone(state: State) -> Parts:
    """A detector or segmentor around a ViT with timm's names or the PAD reference's: its ``backbone.``.

    The rest stays unexpected.
    """
    return from_timm({_renamed(name.removeprefix("backbone.")): tensor for name, tensor in state.items()})


def from_open_mmlab(state: State) -> Parts:
    """mmselfsup and mmpretrain: ``backbone.layers.<i>.ln1``, the decoder as ``neck.``; or a backbone alone."""
    whole = any(name.startswith("backbone.") for name in state)
    encoder, head = {}, {}
    for name, tensor in state.items():
        if name.startswith("neck."):
            head[_mm_name(name.removeprefix("neck."), "decoder_norm.")] = tensor
        elif name.startswith("backbone.") or not whole:
            encoder[_mm_name(name.removeprefix("backbone."), "norm.")] = tensor
        else:
            encoder[name] = tensor
    return Parts(encoder, head)


def _mm_name(name: str, norm: str) -> str:
    name = re.sub(r"^(?:ln|norm)1\.", norm, name)
    for theirs, ours in _MM_NAMES:
        name = theirs.sub(ours, name)
    return name


def from_hugging_face(state: State) -> Parts:
    """transformers' ViT, DeiT, DINOv2 and ViTMAE, bare or inside a model with a head; query, key, value are joined."""
    prefix = next(name for name in state if name.endswith(_HF_EMBEDDING)).removesuffix(_HF_EMBEDDING)
    encoder, head = {}, {}
    for name, tensor in state.items():
        if name.startswith("decoder."):
            head[_hf_name(name.removeprefix("decoder."))] = tensor
        else:
            encoder[_hf_name(name.removeprefix(prefix))] = tensor
    return Parts(_joined(encoder), _joined(head))


def _hf_name(name: str) -> str:
    for theirs, ours in _HF_NAMES:
        name = theirs.sub(ours, name)
    return name


def _joined(state: State) -> State:
    """``attn.query``, ``attn.key`` and ``attn.value`` stacked as timm's ``attn.qkv``."""
    joined: State = {}
    for name, tensor in state.items():
        if ".attn.query." in name:
            parts = [state.get(name.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
            if all(part is not None for part in parts):
                joined[name.replace(".query.", ".qkv.")] = torch.cat(parts)  # type: ignore[arg-type]
        elif not re.search(r"\.attn\.(?:key|value)\.", name):
            joined[name] = tensor
    return joined


def from_dino(state: State) -> Parts:
    """A full DINO or iBOT checkpoint: the teacher's backbone; both heads come along under their own names."""
    plain = {name.replace(".module.", ".", 1): tensor for name, tensor in state.items()}
    side = "teacher" if any(name.startswith("teacher.backbone.") for name in plain) else "student"
    prefix = f"{side}.backbone."
    encoder = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    other = {n: t for n, t in plain.items() if ".backbone." not in n or n.endswith(".masked_embed")}
    encoder.pop("masked_embed", None)
    return Parts(from_timm(encoder).encoder, other)


def _is_timm(names: set[str]) -> bool:
    return "patch_embed.proj.weight" in names and any(
        name.startswith("blocks.0.") and name.endswith("norm1.weight") for name in names
    )


def _ends(*ends: str) -> Callable[[set[str]], bool]:
    return lambda names: any(name.endswith(ends) for name in names)


LAYOUTS: dict[str, tuple[Callable[[set[str]], bool], Callable[[State], Parts]]] = {
    "this project's run": (lambda names: f"{ENCODER}patch_embed.proj.weight" in names, from_run),
    "DINO or iBOT with heads": (
        lambda names: any(re.match(r"(?:teacher|student)\.(?:module\.)?backbone\.patch_embed", name) for name in names),
        from_dino,
    ),
    "PAD reference": (
        lambda names: any(".adaptmlp." in name for name in names) and "patch_embed.proj.weight" in names,
        from_pad_reference,
    ),
    "MMSelfSup or MMPretrain": (_ends("patch_embed.projection.weight"), from_open_mmlab),
    "Hugging Face": (_ends(_HF_EMBEDDING), from_hugging_face),
    "Facebook MAE with decoder": (lambda names: "decoder_embed.weight" in names and _is_timm(names), from_mae),
    "timm": (_is_timm, from_timm),
    "timm inside a larger model": (lambda names: "backbone.patch_embed.proj.weight" in names, from_backbone),
}
"""How a layout is recognised by its names, and how it is converted; tried in this order."""


def take_apart(state: State, source: Path | str) -> Parts:
    """Recognise the layout by its names and convert in memory. Raises ``WeightsError`` for an unknown one."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    for layout, (recognises, converts) in LAYOUTS.items():
        if recognises(set(plain)):
            parts = converts(plain)
            return Parts(parts.encoder, parts.head, layout)
    names = ", ".join(sorted(plain)[:2])
    raise WeightsError(f"{source} is in no known layout (it holds {names}); known are: {', '.join(LAYOUTS)}.")


def decoder_learnt_normalised_pixels(parts: Parts, metadata: dict[str, str], source: str) -> bool | None:
    """Whether the MAE decoder in ``parts`` was trained with ``norm_pix_loss``; None where nothing says so.

    A trainer's options or a config.json say it; else the published names do: Facebook's ``mae_visualize_*`` paint raw
    pixels, ``mae_pretrain_*_full`` and the files of MMSelfSup normalised ones.
    """
    if "decoder_pred.weight" not in parts.head:
        return None
    if "norm_pix_loss" in metadata:
        return metadata["norm_pix_loss"].lower() == "true"
    name = Path(source).name
    if "mae_visualize" in name:
        return False
    published = parts.layout.startswith("MMSelfSup") or re.search(r"mae_pretrain_.*_full", name)
    return True if published else None


def depth_of(state: State) -> int:
    """Number of blocks that converted encoder weights have."""
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def adapter_config(state: State, source: Path | str) -> PadConfig | None:
    """The ``PadConfig`` that converted weights imply, None without adapters.

    Raises ``WeightsError`` if they could be of several: predictors of fusion sum, side and gside have one shape.
    """
    adapters = {name: tensor for name, tensor in state.items() if ADAPTER in name}
    if not adapters:
        return None
    blocks = sorted({int(name.split(".")[1]) for name in adapters})
    try:
        down_size, embed_dim = adapters[f"blocks.{blocks[0]}.adapter.down.weight"].shape
        predictor = adapters.get(f"blocks.{blocks[0]}.adapter.scale_predictor.weight")
        values = (
            [] if predictor is not None else [round(float(adapters[f"blocks.{i}.adapter.scale"]), 6) for i in blocks]
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{source} lacks parts of its adapters ({error}); get it again.") from error
    every = None if len(blocks) == depth_of(state) else tuple(blocks)
    if predictor is None:
        scale: Scale = "fixed" if len(set(values)) == 1 else "learnable"  # files do not tell; outputs are the same
        return PadConfig(down_size=down_size, scale=scale, scale_init=values[0], blocks=every)
    if predictor.shape[1] != 2 * embed_dim:
        raise WeightsError(
            f"the scale predictors of {source} may be of fusion sum, side or gside; attach adapters of the right "
            "PadConfig to a model and pass it as model=."
        )
    return PadConfig(down_size=down_size, blocks=every)


def _renamed(name: str) -> str:
    for theirs, ours in _PAD_NAMES.items():
        name = name.replace(theirs, ours)
    return name
