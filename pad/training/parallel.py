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
from pad.encoders.layouts import ENCODER
from pad.training.blocks import block_lists
from pad.training.paradigms import set_scales_frozen
from pad.weights.checkpoints import frozen_names, optimizer_tensors
from pad.weights.files import State


class SingleProcess:
    """One process that holds everything.

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
        self.held: State = {name: p for name, p in method.named_parameters() if id(p) in ids}
        self._frozen = frozen_names(method, optimizer)

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
        """Drop all gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """The gradients of what the optimizer holds, in its order; DTensors where weights are sharded."""
        return [tensor.grad for tensor in self.held.values() if tensor.grad is not None]

    def grad_norm(self, gradients: list[Tensor]) -> Tensor:
        """The 2-norm of all gradients together, on the device."""
        return torch.nn.utils.get_total_norm(gradients)

    def frozen(self) -> State:
        """What no step changes, whole; where ``collective``, all processes must ask and the first one gets it."""
        return {name: tensor for name, tensor in self._model_state().items() if name in self._frozen}

    def changing(self) -> tuple[State, State]:
        """(tensors that training changes, the optimizer's moments), whole; who must ask is as for ``frozen``."""
        changing = {name: tensor for name, tensor in self._model_state().items() if name not in self._frozen}
        return changing, self._moments()

    def _model_state(self) -> State:
        return dict(self.method.state_dict())

    def _moments(self) -> State:
        return optimizer_tensors(self.held, self.optimizer)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, parts of the method can be called by themselves."""
        yield


class DDP(SingleProcess):
    """Every process holds everything and averages the gradients of what trains, and of nothing else."""

    def start(self, *, scales_frozen: bool | None) -> None:
        """Wrap the method anew: DDP's buckets are made of what trains at that moment."""
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


class FSDP(SingleProcess):
    """FSDP2: every process holds a shard of each tensor; a block's weights come together while it computes.

    Raises ``RunError`` for a method that swaps tensors under a block (iBOT's teacher).
    """

    collective = True

    def __init__(self, method: Any, optimizer: Optimizer, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if not method.can_be_sharded:
            raise RunError(
                f"`parallel=fsdp` cannot train {type(method).__name__}, whose teacher takes the student's place in the "
                "blocks; leave it out: DDP keeps all weights in each process."
            )
        super().__init__(method, optimizer, device)
        whole = self.held
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for blocks in block_lists(method):
            for block in blocks:
                fully_shard(block, mesh=mesh)
        self._root: Any = fully_shard(method, mesh=mesh)
        self.held = {name: parameter for name, parameter in method.named_parameters() if name in whole}
        self._hold_shards({id(tensor): self.held[name] for name, tensor in whole.items()})
        self._scales = {ENCODER + name for name, _ in scale_predictors(method.encoder)}
        self._scales_frozen = False

    def _hold_shards(self, shards: dict[int, Tensor]) -> None:
        """Put the shards in place of the whole tensors (by their id) in the optimizer, and shard its moments alike."""
        for group in self.optimizer.param_groups:
            wholes, group["params"] = group["params"], [shards[id(whole)] for whole in group["params"]]
            for whole, shard in zip(wholes, group["params"], strict=True):
                moments = self.optimizer.state.pop(whole, {})
                if moments:
                    self.optimizer.state[shard] = {key: _sharded(value, shard) for key, value in moments.items()}

    def start(self, *, scales_frozen: bool | None) -> None:
        """Note whether scales are frozen: ``gradients`` then drops theirs, as FSDP2 fixes what trains when it wraps."""
        self._scales_frozen = bool(scales_frozen)

    @contextmanager
    def one_pass(self, *, last: bool) -> Iterator[None]:
        """Without a sync in all passes but the last."""
        self._root.set_requires_gradient_sync(last)
        yield

    def gradients(self) -> list[Tensor]:
        """This process's shards of the gradients."""
        for name in self._scales if self._scales_frozen else ():
            self.held[name].grad = None
        return super().gradients()

    def grad_norm(self, gradients: list[Tensor]) -> Tensor:
        """The 2-norm over the shards of all processes."""
        return _whole(super().grad_norm(gradients))

    def _model_state(self) -> State:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_model_state_dict(self.method, options=options)
        return dict(state)

    def _moments(self) -> State:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        states: Any = get_optimizer_state_dict(self.method, self.optimizer, options=options).get("state", {})
        return {f"{name}/{key}": value for name, moments in states.items() for key, value in moments.items()}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, what is in no block is whole too."""
        self._root.unshard()
        try:
            yield
        finally:
            self._root.reshard()


def _sharded(moment: Tensor, like: Any) -> Tensor:
    """This process's shard of a moment; AdamW's count of steps, a number, stays as it is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(moment, like.device_mesh, like.placements) if moment.ndim else moment


def _whole(sharded: Any) -> Tensor:
    whole: Tensor = sharded.full_tensor()
    return whole
