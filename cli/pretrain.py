"""``msip pretrain``: options to ``pad.pretrain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ExcludeFlag, Json
from .output import print_json, print_table


def pretrain(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder made by `msip build`.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
    method: Annotated[str | None, typer.Option(help="Self-supervised method: mae.", show_default="mae")] = None,
    model: Annotated[str | None, typer.Option(help="timm ViT.", show_default="vit_base_patch16_224")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Starting weights: timm, timm:NAME, a file, a folder, random.", show_default="timm; scratch: random"
        ),
    ] = None,
    paradigm: Annotated[
        str | None,
        typer.Option(
            help="What trains: pad, continual, layer-decay, scratch, frozen, lora, bitfit, explora.", show_default="pad"
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A recipe that fills what is not given: pad-paper.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", show_default="100")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Optimizer steps in place of --epochs; schedule and warm-up shrink with it.")
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Linear warm-up.", show_default="a tenth of --epochs")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of one pass of one process.", show_default="GPU 256, CPU 32")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(help="Passes of one optimizer step.", show_default="1")] = None,
    effective_batch: Annotated[
        int | None, typer.Option(help="Images of one optimizer step; --accumulate follows.", show_default="follows")
    ] = None,
    blr: Annotated[
        float | None, typer.Option(help="Learning rate for 256 images a step; scaled linearly.", show_default="5e-4")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW, on matrices only.", show_default="0.05")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Per block, with --paradigm layer-decay.", show_default="0.7")
    ] = None,
    clip_grad: Annotated[float | None, typer.Option(help="Largest gradient norm.", show_default="none")] = None,
    mask_ratio: Annotated[float | None, typer.Option(help="Share of hidden patches.", show_default="0.75")] = None,
    norm_pix_loss: Annotated[bool | None, typer.Option(help="Normalise each target patch.", show_default="on")] = None,
    decoder_embed_dim: Annotated[int | None, typer.Option(help="Width of the decoder.", show_default="512")] = None,
    decoder_depth: Annotated[int | None, typer.Option(help="Blocks of the decoder.", show_default="8")] = None,
    decoder_num_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the decoder.", show_default="16")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher, for methods that have one: a name or a file.")] = None,
    scale: Annotated[
        str | None, typer.Option(help="Adapter scale: fixed, learnable, patchwise.", show_default="patchwise")
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(help="What predicts the patchwise scale: concat, sum, side, gside.", show_default="concat"),
    ] = None,
    down_size: Annotated[int | None, typer.Option(help="Width of the adapter's bottleneck.", show_default="64")] = None,
    blocks: Annotated[
        list[int] | None,
        typer.Option(help="A block that gets an adapter, from 0 (may be repeated).", show_default="all"),
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="Rank, with --paradigm lora and explora.", show_default="32")
    ] = None,
    scale_freeze: Annotated[
        float | None,
        typer.Option(help="Share of the run in which the patchwise scales stay frozen.", show_default="0.6"),
    ] = None,
    roi_p: Annotated[
        float | None, typer.Option(help="Probability of a RoI crop of any size.", show_default="0.85")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the crops, in pixels.", show_default="224")] = None,
    exclude_flag: ExcludeFlag = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order, crops, masks and dropout.", show_default="0")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.", show_default="auto")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto (bf16 on a GPU), bf16, fp32.", show_default="auto")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read images.", show_default="by cores")] = None,
    save_every: Annotated[int | None, typer.Option(help="Checkpoint every N steps, beside each epoch's end.")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(help="Newest checkpoints kept.", show_default="2")] = None,
    log_every: Annotated[
        int | None, typer.Option(help="Steps between lines of metrics.", show_default="a 50th of the run, 1 to 20")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue: auto (the run in --out), a run, or a checkpoint.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of these options; those given here win.")] = None,
    as_json: Json = False,
) -> None:
    """Pre-train an infrared adapter (or encoder) on a built dataset; can be killed and continued exactly."""
    given = {name: value for name, value in locals().items() if value is not None and name not in ("config", "as_json")}
    from pad.config import PretrainConfig

    options = PretrainConfig.layered(given, config)
    from pad.pretrain import pretrain as run

    result = run(options)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _print_summary(dataclasses.asdict(result))
    if result.signal:
        raise typer.Exit(128 + result.signal)


def _print_summary(values: dict[str, Any]) -> None:
    """The result for people."""
    print_table(
        ["run", str(values.pop("run"))], [[name.replace("_", " "), _shown(value)] for name, value in values.items()]
    )


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
