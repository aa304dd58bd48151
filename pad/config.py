"""What a pre-training run is: options with defaults, presets, and what follows from them for given data."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from msip.errors import RunError
from msip.files import local_path
from msip.storage import is_url

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]

METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    # microsoft/SimMIM config.py and vit_base__800ep: AdamW (0.9, 0.999), gradients clipped at 5, ratio 0.6
    "simmim": {"mask_ratio": 0.6, "beta2": 0.999, "clip_grad": 5.0},
    # bytedance/ibot main_ibot.py: AdamW (0.9, 0.999), clip 3, weight decay 0.04 to 0.4; views see half the masks at 0.3
    "ibot": {"mask_ratio": 0.3, "beta2": 0.999, "clip_grad": 3.0, "weight_decay": 0.04, "weight_decay_end": 0.4},
    # SwinTransformer/Feature-Distillation configs/pretrain/fd_pretrain__dino_vit_base: clip 3
    "distil": {"beta2": 0.999, "clip_grad": 3.0},
}
"""What another method than MAE takes by default; presets and options lie above it."""

_PAD: dict[str, Any] = {
    "model": "vit_base_patch16_224",
    "init": "timm:vit_base_patch16_224.mae",
    "paradigm": "pad",
    "epochs": 100,
    "warmup_epochs": 30.0,
    "effective_batch": 4096,
    "blr": 1e-4,
    "weight_decay": 0.05,
    "mask_ratio": 0.75,
    "scale": "patchwise",
    "fusion": "concat",
    "down_size": 64,
    "scale_freeze": 0.6,
}
_CLIP_B16 = "timm:vit_base_patch16_clip_quickgelu_224.openai"

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2312.08192 and the reference repository's docs/PRETRAIN.md; the RoI crop's p = 0.85 is RoiCrop's default.
    "pad-paper": {"method": "mae", **_PAD},
    # The same page, for MILAN; its weights are not in timm. The reference's teacher sees infrared normalisation.
    "pad-milan": {"method": "milan", **_PAD, "init": None, "teacher": _CLIP_B16, "teacher_normalisation": "infrared"},
    # facebookresearch/mae PRETRAIN.md: 800 epochs of 4096, blr 1.5e-4, warm-up 40.
    "mae": {"method": "mae", "epochs": 800, "warmup_epochs": 40.0, "effective_batch": 4096, "blr": 1.5e-4},
    # zejiangh/MILAN README: 400 epochs of 4096, blr 1.5e-4, warm-up 40, CLIP ViT-B/16.
    "milan": {
        "method": "milan",
        "epochs": 400,
        "warmup_epochs": 40.0,
        "effective_batch": 4096,
        "blr": 1.5e-4,
        "teacher": _CLIP_B16,
    },
    # microsoft/SimMIM vit_base__800ep: lr 1e-4 for 512 images, 2048 a step; there a step at epoch 700, here a cosine.
    "simmim": {"method": "simmim", "epochs": 800, "warmup_epochs": 10.0, "effective_batch": 2048, "blr": 5e-5},
    # bytedance/ibot README and main_ibot.py: 1024 images, lr 5e-4 for 256, ten local crops, warm-up 10 epochs.
    "ibot": {"method": "ibot", "epochs": 400, "warmup_epochs": 10.0, "effective_batch": 1024, "blr": 5e-4},
    # SwinTransformer/Feature-Distillation, DINO teacher: lr 3e-4 for 512, 300 epochs, warm-up 10.
    "distil": {
        "method": "distil",
        "epochs": 300,
        "warmup_epochs": 10.0,
        "effective_batch": 2048,
        "blr": 1.5e-4,
        "teacher": "timm:vit_base_patch14_dinov2.lvd142m",
    },
}

RUN_FILE = "run.yaml"
RESULT = "result.json"  # of a run that is finished

BatchSize = Annotated[int, Field(ge=1)] | Literal["auto"]
DeviceName = Literal["auto", "cpu", "cuda"]

FREE_ON_RESUME = frozenset(
    {"data", "out", "device", "workers", "precision", "batch_size", "accumulate", "parallel", "compile", "recompute"}
    | {"save_every", "keep_checkpoints", "keep_every", "log_every", "wandb", "resume"}
)
"""Options that may differ when a run is continued; every other one would make it another run."""

FREE_AFTER_NON_FINITE = frozenset({"blr", "clip_grad"})
"""Options that may differ as well from before a step on that was not finite."""

DEFAULT_BATCH = {"cuda": 256, "cpu": 32}
"""``batch_size`` where none is given and the data has as many images."""


def _option(default: Any, help: str, *, shown: str | None = None, **limits: float) -> Any:
    """A field that is an option of the command line too; ``shown`` stands there for a default that follows later."""
    return Field(default=default, description=help, json_schema_extra={"shown": shown}, **limits)  # type: ignore[call-overload]


def _place(value: object) -> object:
    """A URL as it is; a path, also of a ``file:`` URL, without what means nothing (``data/`` is ``data``)."""
    if not isinstance(value, (str, Path)):
        return value
    far = is_url(value) and not str(value).startswith(("file:", "local:"))
    return str(value) if far else str(local_path(value))


def _weights(value: object) -> object:
    """A file or folder of weights by its absolute path, so that a run goes on from anywhere; a name as it is."""
    if not isinstance(value, str) or value in ("timm", "random") or value.startswith("timm:"):
        return value
    return str(Path(value).absolute()) if Path(value).exists() else value


def _may_be_same(before: str, now: str) -> bool:
    """Whether two paths may mean the same weights: of one name, and not both there."""
    return Path(before).name == Path(now).name and not (Path(before).exists() and Path(now).exists())


class PretrainConfig(BaseModel):
    """The options of ``msip pretrain``, its help included; every problem is raised as ``RunError``, one sentence.

    ``preset`` fills what is not given. ``None`` means: follows from the rest, see ``Plan`` and ``pad.pretrain``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    _explicit: frozenset[str] = PrivateAttr(default=frozenset())

    data: Annotated[str, BeforeValidator(_place)] = Field(
        description="Folder made by `msip build` or `msip shard`, or the fsspec URL of shards (s3://...)."
    )
    out: Path = Field(description="The run's folder.")
    preset: str | None = _option(None, f"A recipe that fills what is not given: {', '.join(PRESETS)}.")
    method: str = _option("mae", "Self-supervised method: mae, milan, simmim, ibot, distil.")
    model: str = _option("vit_base_patch16_224", "timm ViT.")
    init: Annotated[str | None, BeforeValidator(_weights)] = _option(
        None, "Starting weights: timm, timm:NAME, a file, a folder, random.", shown="timm; scratch: random"
    )
    paradigm: str = _option("pad", "What trains: pad, continual, layer-decay, scratch, frozen, lora, bitfit, explora.")
    image_size: int = _option(224, "Side of the crops, in pixels.", ge=16)
    epochs: int = _option(100, "Passes over the data.", ge=1)
    max_steps: int | None = _option(
        None, "Optimizer steps in place of --epochs; schedule and warm-up shrink with it.", ge=1
    )
    warmup_epochs: float | None = _option(None, "Linear warm-up.", shown="a tenth of --epochs", ge=0)
    batch_size: BatchSize | None = _option(
        None, "Images of one pass of one process; auto: as many as the GPU's memory holds.", shown="GPU 256, CPU 32"
    )
    accumulate: int | None = _option(None, "Passes of one optimizer step.", shown="1", ge=1)
    effective_batch: int | None = _option(
        None, "Images of one optimizer step; --accumulate follows.", shown="follows", ge=1
    )
    blr: float = _option(5e-4, "Learning rate for 256 images a step; scaled linearly.", gt=0)
    weight_decay: float = _option(0.05, "Of AdamW, on matrices and tokens.", ge=0)
    weight_decay_end: float | None = _option(None, "Where weight decay ends, by a half cosine.", shown="constant", ge=0)
    beta2: float = _option(0.95, "AdamW's second beta.", gt=0, lt=1)
    layer_decay: float = _option(0.7, "Per block, with --paradigm layer-decay.", gt=0, le=1)
    clip_grad: float | None = _option(None, "Largest gradient norm.", shown="none", gt=0)
    mask_ratio: float = _option(0.75, "Share of hidden patches.", gt=0, lt=1)
    norm_pix_loss: bool = _option(True, "Normalise each target patch.")
    decoder_embed_dim: int = _option(512, "Width of the decoder.", ge=1)
    decoder_depth: int = _option(8, "Blocks of the decoder.", ge=1)
    decoder_num_heads: int = _option(16, "Attention heads of the decoder.", ge=1)
    teacher: Annotated[str | None, BeforeValidator(_weights)] = _option(
        None, "Frozen teacher of milan and distil: timm's name, a file or a run."
    )
    teacher_normalisation: Literal["own", "infrared"] = _option(
        "own", "What the teacher sees: own (its mean and std) or infrared (the student's, as the reference of MILAN)."
    )
    out_dim: int = _option(8192, "Prototypes of iBOT's head.", ge=2)
    local_crops: int = _option(10, "Small crops of an image beside iBOT's two global ones.", ge=0)
    local_size: int = _option(96, "Side of the small crops, in pixels.", ge=16)
    ema: float = _option(0.996, "Momentum of iBOT's teacher at the start; it ends at 1.", gt=0, le=1)
    scale: Literal["fixed", "learnable", "patchwise"] = _option(
        "patchwise", "Adapter scale: fixed, learnable, patchwise."
    )
    fusion: Literal["concat", "sum", "side", "gside"] = _option(
        "concat", "What predicts the patchwise scale: concat, sum, side, gside."
    )
    down_size: int = _option(64, "Width of the adapter's bottleneck.", ge=1)
    blocks: tuple[int, ...] | None = _option(
        None, "A block that gets an adapter, from 0 (may be repeated).", shown="all"
    )
    scale_freeze: float = _option(0.6, "Share of the run in which the patchwise scales stay frozen.", ge=0, le=1)
    lora_rank: int = _option(32, "Rank, with --paradigm lora and explora.", ge=1)
    roi_p: float = _option(0.85, "Probability of a RoI crop of any size.", ge=0, le=1)
    exclude_flag: tuple[str, ...] = _option((), "Leave out images with this flag (may be repeated).")
    seed: int = _option(0, "Of weights, order, crops, masks and dropout.", ge=0)
    device: DeviceName = _option("auto", "auto, cpu, cuda.")
    precision: Precision = _option("auto", "auto (bf16 on a GPU), bf16, fp32.")
    compile: bool | None = _option(None, "Compile the transformer blocks.", shown="with a GPU")
    recompute: bool = _option(False, "Compute activations twice, for less memory (activation checkpointing).")
    parallel: Literal["ddp", "fsdp"] = _option(
        "ddp", "Several processes (torchrun): ddp, a copy of the weights each; fsdp, a shard of them."
    )
    workers: int | None = _option(None, "Processes that read images.", shown="by cores", ge=0)
    save_every: int | None = _option(None, "Checkpoint every N steps, beside each epoch's end.", ge=1)
    keep_checkpoints: int = _option(2, "Newest checkpoints kept.", ge=1)
    keep_every: int | None = _option(None, "Checkpoint every N steps that is kept for good.", ge=1)
    log_every: int | None = _option(None, "Steps between lines of metrics.", shown="a 50th of the run, 1 to 20", ge=1)
    wandb: str | None = _option(None, "Log to this project of Weights & Biases as well.", shown="off")
    resume: str | None = _option(None, "Continue: auto (the run in --out), a run, or a checkpoint.")

    def __init__(self, **values: Any) -> None:
        known = set(type(self).model_fields)
        for name in values:
            if name not in known:
                raise RunError(f"there is no option {name!r}{_suggestion(name, known)}")
        preset = values.get("preset")
        if preset is not None and preset not in tuple(PRESETS):
            raise RunError(f"--preset is {preset!r}; choose one of {', '.join(PRESETS)}.")
        try:
            super().__init__(**_with_preset(values))
        except ValidationError as error:
            raise RunError(_sentence(error)) from None
        self._explicit = frozenset(values)

    @property
    def explicit(self) -> frozenset[str]:
        """The options that were given, not defaulted or filled by a preset."""
        return self._explicit

    @classmethod
    def layered(cls, options: dict[str, Any], file: Path | None = None) -> PretrainConfig:
        """Options over a YAML file of options over the preset over the defaults. Raises ``RunError``.

        A run that is continued knows its data.
        """
        values = {**(read_options(file) if file else {}), **options}
        if values.get("resume") and values.get("out") and "data" not in values:
            stored = read_run(Path(values["out"]))
            values.update({"data": stored["config"]["data"]} if stored else {})
        return cls(**values)

    def continued(self, stored: dict[str, Any], free: frozenset[str] = FREE_ON_RESUME) -> PretrainConfig:
        """The configuration that continues a run: its stored one, with what may change (``free``) taken from here.

        Raises ``RunError`` if an option was given that would make it another run.
        """
        before = PretrainConfig(**stored)
        for name in sorted(self.explicit - free):
            mine, its = getattr(self, name), getattr(before, name)
            moved = name in ("init", "teacher") and mine and its and _may_be_same(its, mine)
            if mine != its and name != "preset" and not moved:
                raise RunError(
                    f"{option(name)} {mine} differs from the {its} that the run in {self.out} was started with; "
                    f"leave it out to continue that run, or choose another --out for a new one."
                )
        changed = {name: getattr(self, name) for name in self.explicit & free}
        kept = {name: value for name, value in stored.items() if name not in ("batch_size", "accumulate", "resume")}
        if not changed.keys() & {"batch_size", "accumulate"}:  # on more processes, fewer passes make the same step
            kept["batch_size"] = stored["batch_size"]
        return PretrainConfig(**{**kept, **changed})


def option(name: str) -> str:
    """``batch_size`` to ``--batch-size``."""
    return "--" + name.replace("_", "-")


def read_run(run: Path) -> dict[str, Any] | None:
    """What RUN/run.yaml says, ``None`` where there is none. Raises ``RunError`` for one that is not a run's."""
    path = run / RUN_FILE
    if not path.is_file():
        return None
    stored = read_options(path)
    if not isinstance(stored.get("config"), dict) or not isinstance(stored.get("data"), dict):
        raise RunError(f"{path} was not written by `msip pretrain`; choose another --out.")
    return stored


def read_options(file: Path) -> dict[str, Any]:
    """Options from a YAML file. Raises ``RunError``."""
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}); give an existing YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is not YAML ({' '.join(str(error).split())}); correct it.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RunError(f"{file} holds a {type(values).__name__}, expected lines `option: value`.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    name, epochs = values.get("preset"), values.get("epochs")
    preset = PRESETS.get(name, {}) if isinstance(name, str) else {}
    method = values.get("method", preset.get("method"))
    defaults = METHOD_DEFAULTS.get(method, {}) if isinstance(method, str) else {}
    filled = {**defaults, **preset, **values}
    if preset and isinstance(epochs, (int, float)) and "warmup_epochs" not in values:
        filled["warmup_epochs"] = preset["warmup_epochs"] / preset["epochs"] * epochs  # the share stays the preset's
    return filled


def _suggestion(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else "; leave it out."


def _sentence(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = option(str(problem["loc"][0]))
    if problem["type"] == "missing":
        return f"{name} is missing; give it on the command line or in the --config file."
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name} is {problem['input']!r}, but {message}."


@dataclass(frozen=True)
class Plan:
    """What follows from the options for given data, device and number of processes.

    Attributes:
        batch_size: images of one forward pass on one process.
        accumulate: forward passes of one optimizer step.
        effective_batch: images of one optimizer step, over all processes.
        steps_per_epoch, steps: optimizer steps of an epoch, of the run.
        warmup_steps: of the linear warm-up; may be fractional.
        lr: peak learning rate, ``blr * effective_batch / 256`` (MAE's linear rule).
        log_every, panel_every: steps.
        notes: what the user should know about values that were derived.
    """

    batch_size: int
    accumulate: int
    effective_batch: int
    steps_per_epoch: int
    steps: int
    warmup_steps: float
    lr: float
    log_every: int
    panel_every: int
    notes: tuple[str, ...] = ()


def make_plan(config: PretrainConfig, images: int, *, device: str, world: int = 1) -> Plan:
    """Resolve batch, steps and learning rate. Raises ``RunError`` if the data cannot fill one step."""
    batch_size, accumulate, notes = _split_batch(config, images, device, world)
    effective = batch_size * accumulate * world
    if "effective_batch" in config.explicit and effective != config.effective_batch:
        raise RunError(
            f"--batch-size {batch_size} x --accumulate {accumulate} x {world} processes make {effective} images, "
            f"not --effective-batch {config.effective_batch}; leave one of them out."
        )
    per_epoch = images // effective
    if per_epoch == 0:
        raise RunError(
            f"one optimizer step takes {effective:,} images (--batch-size {batch_size} x --accumulate {accumulate} x "
            f"{world} processes), but {config.data} has {images:,}; choose a smaller --batch-size."
        )
    steps = config.max_steps or config.epochs * per_epoch
    warmup = 0.1 * config.epochs if config.warmup_epochs is None else config.warmup_epochs
    if warmup > config.epochs:
        raise RunError(f"--warmup-epochs {warmup:g} exceeds --epochs {config.epochs}; choose a shorter warm-up.")
    return Plan(
        batch_size=batch_size,
        accumulate=accumulate,
        effective_batch=effective,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=warmup / config.epochs * steps,
        lr=config.blr * effective / 256,
        log_every=config.log_every or max(1, min(20, steps // 50)),
        panel_every=max(1, math.ceil(steps / 10)),
        notes=notes,
    )


def _split_batch(config: PretrainConfig, images: int, device: str, world: int) -> tuple[int, int, tuple[str, ...]]:
    """(batch_size, accumulate, notes) of one process."""
    limit = DEFAULT_BATCH[device]
    wanted, accumulate = config.effective_batch, config.accumulate
    if config.batch_size == "auto" and device == "cpu":
        raise RunError("--batch-size auto tries out a GPU's memory; on a CPU give a number, e.g. 32.")
    if config.batch_size == "auto" and accumulate:
        raise RunError("--batch-size auto finds --accumulate too; leave that out, or give both as numbers.")
    batch_size = None if config.batch_size == "auto" else config.batch_size
    if wanted is None or (batch_size and accumulate):
        accumulate = accumulate or 1
        return batch_size or max(1, min(limit, images // (world * accumulate))), accumulate, ()
    if wanted > images and "effective_batch" not in config.explicit:
        batch_size = batch_size or max(1, min(limit, images // (world * (accumulate or 1))))
        accumulate = accumulate or max(1, images // (batch_size * world))
        used = batch_size * accumulate * world
        return (
            batch_size,
            accumulate,
            (f"the preset's batch of {wanted:,} exceeds the {images:,} images, {used:,} used",),
        )
    if accumulate:
        return _exact(wanted, accumulate, world, "accumulate"), accumulate, ()
    if not batch_size:
        share = _share(wanted, world, limit)
        batch_size = max(size for size in range(1, min(limit, share) + 1) if share % size == 0)
    return batch_size, _exact(wanted, batch_size, world, "batch_size"), ()


def batch_sizes(share: int) -> list[int]:
    """Sizes of a pass that make up a process's share of a step: its divisors, rising."""
    return [size for size in range(1, share + 1) if share % size == 0]


def _share(effective: int, world: int, limit: int) -> int:
    """Images of one process; the step proposed where these are not whole has as few passes as there can be."""
    if effective % world:
        passes = math.ceil(effective / (world * limit))
        size = max(1, round(effective / (world * passes)))
        raise RunError(
            f"a step of {effective:,} images cannot be shared out among {world} processes; choose --effective-batch "
            f"{world * passes * size} ({passes} passes of {size} images a process)."
        )
    return effective // world


def _exact(effective: int, part: int, world: int, name: str) -> int:
    whole = part * world
    if effective % whole:
        near = max(1, round(effective / whole)) * whole
        among = f" x {world} processes" if world > 1 else ""
        raise RunError(
            f"a step of {effective:,} images cannot be split into parts of {whole:,} ({option(name)} {part}{among}); "
            f"leave {option(name)} out, or choose --effective-batch {near}."
        )
    return effective // whole


def default_workers(device: str, local_world: int = 1) -> int:
    """Reading processes: nearly all cores for a GPU, one where the CPU itself trains."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // local_world - 1)) if device == "cuda" else min(1, cores - 1)
