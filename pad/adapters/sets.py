"""Several trained adapters on one frozen trunk, one of them, or none, at work: ``AdapterSets``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from msip.errors import ModelError
from pad.adapters.attach import adapted_blocks, blocks_of, config_of, detach_adapters, has_adapters, put_adapters
from pad.adapters.bottleneck import Adapter, PadConfig
from pad.adapters.files import load_adapters


class _Kept(NamedTuple):
    config: PadConfig
    adapters: dict[int, Adapter]


class AdapterSets:
    """Named adapters that share one trunk; switching swaps a few megabytes and copies no weight of the trunk.

    ``sets = AdapterSets(model); sets.add("night", "run_night"); sets.use("night"); sets.use(None)``. With ``None`` the
    model is the plain timm model, bit for bit. The active adapters are the model's own: ``save_adapters`` saves them,
    training trains them. Those at rest are not in ``model.state_dict()``; they follow the model's device when used.

    Args:
        model: a timm ViT. Adapters that it already has are kept under the name ``default``, and stay active.
    """

    def __init__(self, model: nn.Module) -> None:
        blocks_of(model)
        self.model = model
        self.active: str | None = None
        self._kept: dict[str, _Kept] = {}
        if has_adapters(model):
            self._keep("default")

    @property
    def names(self) -> list[str]:
        """The adapters there are, in the order they came."""
        return list(self._kept)

    def add(self, name: str, path: str | Path) -> None:
        """Load the adapters saved at ``path`` as ``name`` and make them active.

        Raises ``WeightsError`` for adapters of another base and ``ModelError`` for a name that is taken; the adapters
        that were active stay so.
        """
        if name in self._kept:
            raise ModelError(f"there already are adapters named {name!r}; choose another name or use({name!r}).")
        before = self.active
        detach_adapters(self.model)
        try:
            load_adapters(self.model, path)
        except Exception:
            self.use(before)
            raise
        self._keep(name)

    def use(self, name: str | None) -> None:
        """Put the adapters ``name`` to work, or none. Raises ``ModelError`` for an unknown name."""
        if name is not None and name not in self._kept:
            raise ModelError(f"there are no adapters named {name!r}; there are {', '.join(self._kept) or 'none'}.")
        detach_adapters(self.model)
        self.active = name
        if name is not None:
            put_adapters(self.model, *self._kept[name])

    def _keep(self, name: str) -> None:
        numbers = {id(block): index for index, block in enumerate(blocks_of(self.model))}
        adapters = {numbers[id(block)]: block.adapter for block in adapted_blocks(self.model)}
        self._kept[name] = _Kept(config_of(self.model), adapters)
        self.active = name
