"""How the processes of a run share the work: one alone, replicas (DDP), or shards of the weights (FSDP2).

All three train the same: gradients are means over all images of a step, and a checkpoint holds whole tensors under the
method's own names, so that a run may go on with another number of processes or another way of sharing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from msip.errors import RunError
from pad.adapters.attach import scale_predictors
from pad.training.blocks import block_lists
from pad.training.paradigms import set_scales_frozen
from pad.weights.checkpoints import optimizer_tensors, split_state

Tensors = dict[str, Tensor]


class Alone:
    """A single process.

    Attributes:
        model: what is called; the method, or what wraps it.
        held: what the optimizer updates, by the parameter's name.
        collective: whether every process must take part in whatever uses the weights.
    """

    collective = False

    def __init__(self, method: Any, optimizer: Optimizer, device: torch.device) -> None:
        self.method, self.optimizer, self.device = method, optimizer, device
        self.model: nn.Module = method
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.held: Tensors = {name: p for name, p in method.named_parameters() if id(p) in ids}

    def start(self, *, scales_frozen: bool | None) -> None:
        """Called before the first step and whenever the scale predictors are frozen or freed (None: there are none)."""
        if scales_frozen is not None:
            set_scales_frozen(self.method, scales_frozen)

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients travel in the ``last`` one of a step only."""
        del last
        yield

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """Of what the optimizer holds, in its order; of this process's shards alone where there are shards."""
        return [tensor.grad for tensor in self.held.values() if tensor.grad is not None]

    def grad_norm(self, gradients: list[Tensor]) -> Tensor:
        """Of all gradients together, on the device."""
        return torch.nn.utils.get_total_norm(gradients)

    def state(self) -> tuple[Tensors, Tensors, Tensors]:
        """(frozen, changing, moments): whole tensors, see ``pad.weights.checkpoints``."""
        frozen, changing = split_state(self.method, self.method.encoder, self.optimizer)
        return frozen, changing, optimizer_tensors(self.held, self.optimizer)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, parts of the method can be called by themselves."""
        yield


class Replicated(Alone):
    """DDP: every process holds everything and averages the gradients of what trains, and of nothing else."""

    def start(self, *, scales_frozen: bool | None) -> None:
        """The buckets of gradients follow what trains."""
        super().start(scales_frozen=scales_frozen)
        devices = [self.device] if self.device.type == "cuda" else None
        self.model = DistributedDataParallel(
            self.method, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        """Without a sync in all passes but the last."""
        assert isinstance(self.model, DistributedDataParallel)
        if last:
            yield
        else:
            with self.model.no_sync():
                yield


class Sharded(Alone):
    """FSDP2: every process holds a part of each tensor; a block's weights come together while it computes.

    The optimizer works on this process's parts as plain tensors, which for AdamW is the same.
    Raises ``RunError`` for a method that swaps tensors under a block (iBOT's teacher).
    """

    collective = True

    def __init__(self, method: Any, optimizer: Optimizer, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(method, optimizer, device)
        if not method.can_be_sharded:
            raise RunError(
                f"--parallel fsdp cannot train {type(method).__name__}, whose teacher takes the student's place in the "
                "blocks; leave it out: DDP keeps all weights in each process."
            )
        self._frozen = set(split_state(method, method.encoder, optimizer)[0])
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for blocks in block_lists(method):
            for block in blocks:
                fully_shard(block, mesh=mesh)
        self._root: Any = fully_shard(method, mesh=mesh)
        self._parts: dict[str, Any] = {n: p for n, p in method.named_parameters() if n in self.held}
        self._scales = {"encoder." + name for name, _ in scale_predictors(method.encoder)}
        self._scales_frozen = False
        self._hold_parts()

    def _hold_parts(self) -> None:
        """Let the optimizer hold this process's parts in place of the whole tensors, its moments likewise."""
        names = {id(whole): name for name, whole in self.held.items()}
        for group in self.optimizer.param_groups:
            group["params"] = [self._part_of(names[id(whole)], whole) for whole in group["params"]]

    def _part_of(self, name: str, whole: Any) -> nn.Parameter:
        part = nn.Parameter(self._parts[name].to_local().detach())
        moments = self.optimizer.state.pop(whole, {})
        if moments:
            self.optimizer.state[part] = {key: self._cut(name, value) for key, value in moments.items()}
        self.held[name] = part
        return part

    def _cut(self, name: str, value: Tensor) -> Tensor:
        """This process's part of a moment."""
        from torch.distributed.tensor import distribute_tensor

        like = self._parts[name]
        if value.shape != like.shape:  # AdamW's count of steps
            return value
        return distribute_tensor(value.to(self.device), like.device_mesh, like.placements).to_local().clone()

    def start(self, *, scales_frozen: bool | None) -> None:
        """What is frozen for a while gives up its gradients: FSDP2 remembers what trained at first."""
        self._scales_frozen = bool(scales_frozen)

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        """Without a sync in all passes but the last."""
        self._root.set_requires_gradient_sync(last)
        yield

    def zero_grad(self) -> None:
        """Of the parts, and of the tensors they are parts of."""
        super().zero_grad()
        self.method.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """Of this process's parts."""
        for name, part in self.held.items():
            gradient = self._parts[name].grad
            kept = gradient is not None and not (self._scales_frozen and name in self._scales)
            part.grad = gradient.to_local() if kept else None
        return super().gradients()

    def grad_norm(self, gradients: list[Tensor]) -> Tensor:
        """Over the parts of all processes."""
        squared = super().grad_norm(gradients).square()
        dist.all_reduce(squared)
        return squared.sqrt()

    def state(self) -> tuple[Tensors, Tensors, Tensors]:
        """Gathered; every process takes part, and gets all."""
        state = {name: _gathered(tensor) for name, tensor in self.method.state_dict().items()}
        moments = {}
        for key, value in optimizer_tensors(self.held, self.optimizer).items():
            name = key.rsplit("/", 1)[0]
            moments[key] = value if value.ndim == 0 else self._join(name, value)
        frozen = {name: tensor for name, tensor in state.items() if name in self._frozen}
        return frozen, {name: tensor for name, tensor in state.items() if name not in frozen}, moments

    def _join(self, name: str, part: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        like = self._parts[name]
        return _gathered(
            DTensor.from_local(
                part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )
        )

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, what is in no block is whole too."""
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()


def _gathered(tensor: Any) -> Tensor:
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().cpu()
