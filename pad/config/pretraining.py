"""What a pre-training run is: options with defaults, presets, and what follows from them for given data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from msip.errors import RunError
from msip.files import absolute_if_there, path_or_url
from pad.config.options import explain, option, read_options
from pad.config.presets import PRESETS

RUN_FILE = "run.yaml"
RESULT = "result.json"  # of a run that is finished

Precision: TypeAlias = Literal["auto", "bf16", "fp32"]
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"]
BatchSize: TypeAlias = Annotated[int, Field(ge=1)] | Literal["auto"]

FREE_ON_RESUME = frozenset(
    {"data", "out", "device", "workers", "precision", "batch_size", "accumulate", "parallel", "compile", "recompute"}
    | {"save_every", "keep_checkpoints", "keep_every", "log_every", "wandb", "resume"}
)
"""Options that may differ when a run is continued; every other one would make it another run."""

FREE_AFTER_NON_FINITE = frozenset({"blr", "clip_grad"})
"""Options that may differ as well from before a step on that was not finite."""


def _option(default: Any, help: str, *, shown: str | None = None, **limits: float) -> Any:
    """A field that is an option of the command line too; ``shown`` stands there for a default that follows later."""
    return Field(default=default, description=help, json_schema_extra={"shown": shown}, **limits)  # type: ignore[call-overload]


def _place(value: object) -> object:
    """A URL as it is; a path, also of a ``file:`` URL, without what means nothing (``data/`` is ``data``)."""
    return str(path_or_url(value)) if isinstance(value, (str, Path)) else value


def _weights(value: object) -> object:
    """A file or folder of weights by its absolute path, so that a run goes on from anywhere; a name as it is."""
    return value if value in ("timm", "random") else absolute_if_there(value)


def _may_be_same(before: str, now: str) -> bool:
    """Whether two paths may mean the same weights: of one name, and not both there."""
    return Path(before).name == Path(now).name and not (Path(before).exists() and Path(now).exists())


class PretrainConfig(BaseModel):
    """The options of ``msip pretrain``, its help included; every problem is raised as ``RunError``, one sentence.

    Names that are none of its own are options of the method and land in ``options``; ``pad.training.building.complete``
    checks them, and fills what the method's own recipe and preset say.

    ``preset`` fills what is not given. ``None`` means: follows from the rest, see ``Plan``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    _explicit: frozenset[str] = PrivateAttr(default=frozenset())

    data: Annotated[str, BeforeValidator(_place)] = Field(
        description="Folder made by `msip build` or `msip shard`, or the fsspec URL of shards (s3://...)."
    )
    out: Path = Field(description="The run's folder.")
    preset: str | None = _option(
        None, f"A recipe that fills what is not given: {', '.join(PRESETS)}, or a method's own by its name."
    )
    method: str = _option("mae", "Self-supervised method: mae, milan, simmim, ibot, distil, or an installed package's.")
    options: dict[str, Any] = Field({}, description="The method's own options by name, see ``pad.methods``.")
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
        given = frozenset(values) - {"options"} | frozenset(values.get("options") or ())
        fields = {name: value for name, value in _with_preset(values).items() if name in type(self).model_fields}
        given_own = values if "options" in values else _with_preset(values)  # complete ones need no preset
        own = {name: value for name, value in given_own.items() if name not in type(self).model_fields}
        try:
            super().__init__(**{**fields, "options": {**own, **(fields.get("options") or {})}})
        except ValidationError as error:
            raise RunError(explain(error)) from None
        self._explicit = given

    def asked_as(self, config: PretrainConfig) -> PretrainConfig:
        """Return this configuration, with what was given explicitly in ``config``."""
        self._explicit = config.explicit
        return self

    def value(self, name: str) -> Any:
        """Return an option of the run or of its method by name, ``None`` for one that has no value here."""
        return self.options.get(name) if name not in type(self).model_fields else getattr(self, name)

    def flat(self) -> dict[str, Any]:
        """Return all options as JSON values in one dict, those of the method among them: as ``run.yaml`` holds them."""
        values = self.model_dump(mode="json")
        return {**{name: value for name, value in values.items() if name != "options"}, **values["options"]}

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
            mine, its = self.value(name), before.value(name)
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


def read_run(run: Path) -> dict[str, Any] | None:
    """What RUN/run.yaml says, ``None`` where there is none. Raises ``RunError`` for one that is not a run's."""
    path = run / RUN_FILE
    if not path.is_file():
        return None
    stored = read_options(path)
    if not isinstance(stored.get("config"), dict) or not isinstance(stored.get("data"), dict):
        raise RunError(f"{path} was not written by `msip pretrain`; choose another --out.")
    return stored


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` over those of the whole-run preset that they name, if they name one."""
    name = values.get("preset")
    return over_preset(PRESETS.get(name, {}) if isinstance(name, str) else {}, values)


def over_preset(preset: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` over a preset; of a run of another length the warm-up keeps the preset's share."""
    filled, epochs = {**preset, **values}, values.get("epochs")
    if preset and isinstance(epochs, (int, float)) and "warmup_epochs" not in values:
        filled["warmup_epochs"] = preset["warmup_epochs"] / preset["epochs"] * epochs
    return filled
