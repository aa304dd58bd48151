"""RUN/run.yaml: resolved options, versions, data and parameter counts of a run."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from msip.files import write_bytes
from msip.manifest import Manifest
from msip.shards import Shards
from pad.adapters.attach import ADAPTER, count_adapter_parameters
from pad.config.plan import Plan
from pad.config.pretraining import FREE_AFTER_NON_FINITE, RUN_FILE, PretrainConfig
from pad.machine import device_name, git_commit, versions
from pad.training.building import init_of
from pad.weights.checkpoints import Checkpoint


def count_parameters(method: Any, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Parameters of the whole method, of all that trains, of the encoder's part of it, and of the adapters alone."""
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    sizes = [(name, p.numel(), id(p) in trained) for name, p in method.named_parameters()]
    trunk = sum(n for name, n, trains in sizes if trains and name.startswith("encoder.") and ADAPTER not in name)
    return {
        "total": sum(n for _, n, _ in sizes),
        "trained": sum(n for _, n, trains in sizes if trains),
        "trained_trunk": trunk,
        "adapters": count_adapter_parameters(method.encoder),
    }


def describe_data(data: Manifest | Shards, config: PretrainConfig) -> dict[str, Any]:
    """What identifies the data of a run."""
    images = len(data.without_flags(config.exclude_flag))
    return {
        "root": str(data.root),
        "layout": data.storage().layout,
        "manifest_sha256": data.digest(),
        "images": images,
        "excluded": len(data) - images,
    }


def write_run(
    config: PretrainConfig,
    plan: Plan,
    stored: dict[str, Any] | None,
    checkpoint: Checkpoint | None,
    *,
    facts: dict[str, Any],
    device: torch.device,
    workers: int,
) -> None:
    """Write RUN/run.yaml; a continued run keeps what it said and gains an entry under ``continued``.

    ``facts``: data, parameters and what became of the initial weights.
    """
    resolved = {"batch_size": plan.batch_size, "accumulate": plan.accumulate, "effective_batch": plan.effective_batch}
    where = {"device": device_name(device), "workers": workers, "versions": versions(), "git_commit": git_commit()}
    content: dict[str, Any] = {
        "config": {**config.flat(), **resolved, "resume": None, "init": init_of(config)},
        "plan": {
            "lr": plan.lr,
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "warmup_steps": plan.warmup_steps,
        },
        **facts,
        **where,
    }
    if stored and checkpoint:
        before, now = stored["config"], content["config"]
        changed = {name: now[name] for name in sorted(FREE_AFTER_NON_FINITE) if now[name] != before.get(name)}
        was = {"before": {name: before.get(name) for name in changed}} if changed else {}
        content = {
            **stored,
            "config": {**before, **changed, "data": str(config.data), "out": str(config.out)},
            "plan": {**stored["plan"], "lr": plan.lr},
            "continued": [*stored.get("continued", []), {"step": checkpoint.step, **changed, **was, **where}],
        }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_bytes(config.out / RUN_FILE, text.encode())
