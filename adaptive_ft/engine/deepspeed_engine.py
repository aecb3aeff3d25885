"""The one place that talks to DeepSpeed: initialize, one update, gather, save and load without the frozen half."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor, nn

from adaptive_ft.engine.checkpoint import CheckpointFolder
from adaptive_ft.engine.failed_saves import failures_kept, told_as_failed_save
from adaptive_ft.engine.optimizer import (
    NamedParameters,
    OptimConfig,
    build_optimizer,
    own_settings,
    schedule_factor,
    set_learning_rates,
)
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.universal import convert, read_converted
from adaptive_ft.errors import UserError

NEVER = float("inf")


class Engine:
    """A model under DeepSpeed with named parameter groups; counts optimizer updates.

    The model must be complete (built on the CPU, pretrained weights loaded, adapted) before it comes here: a
    partitioned module must never be copied (huggingface/peft PR#1450). `ds_config` has every number filled in
    (`fill_ds_config`).
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, NamedParameters],
        optim: OptimConfig,
        ds_config: dict[str, Any],
        ranks: Ranks,
        total_updates: int,
    ) -> None:
        self.ranks = ranks
        self.optim = optim
        self.total_updates = total_updates
        self.updates = 0
        self._plain_norm = torch.tensor(float("nan"))
        self._diverged_at = torch.tensor(NEVER)
        self.dtype = torch.bfloat16 if ds_config["bf16"]["enabled"] else torch.float32
        optimizer = build_optimizer(groups, optim, fused=ranks.device.type == "cuda")
        # DeepSpeed casts before it copies to float32; done here, the whole model comes to the device in half the size.
        model.to(ranks.device, self.dtype)
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=ds_config, dist_init_required=False
        )
        if self.deepspeed.world_size != ranks.world_size:
            raise RuntimeError(f"DeepSpeed runs {self.deepspeed.world_size} ranks, {ranks.world_size} were started")

    @property
    def module(self) -> nn.Module:
        """The model inside."""
        module: nn.Module = self.deepspeed.module
        return module

    @property
    def zero_stage(self) -> int:
        """Which ZeRO stage runs (0 to 3)."""
        return int(self.deepspeed.zero_optimization_stage())

    def __call__(self, **inputs: Any) -> Any:
        """The model's forward pass under the engine."""
        return self.deepspeed(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of loss / accumulation steps; average over ranks at the boundary."""
        self.deepspeed.backward(loss)

    def step(self) -> dict[str, float]:
        """End a micro-batch; at the accumulation boundary clip, update and count. The learning rates used, by group."""
        warmup = self.optim.warmup_updates(self.total_updates)
        rates = set_learning_rates(self.optimizer, schedule_factor(self.updates, self.total_updates, warmup))
        boundary = self.deepspeed.is_gradient_accumulation_boundary()
        if boundary and not hasattr(self.optimizer, "_global_grad_norm"):
            self._plain_norm = self._norm_of_gradients()
        self.deepspeed.step()
        if boundary:
            self.updates += 1
            self._watch(self._norm())
        return rates

    def gradient_norm(self) -> float:
        """Global L2 norm of the last update's gradients over all groups, before clipping."""
        return float(self._norm())

    def diverged_at(self) -> int | None:
        """The first update since the start or the load whose gradients were not finite; the same on every rank, waits
        for the device.
        """
        update = self._diverged_at.item()
        return None if update == NEVER else int(update)

    def _norm(self) -> Tensor:
        norm = self.deepspeed.get_global_grad_norm()
        return torch.as_tensor(self._plain_norm if norm is None else norm)

    def _watch(self, norm: Tensor) -> None:
        """Keep the first update without a finite norm, on the device of the norm: no step waits for it."""
        sound = norm.isfinite() & (norm >= 0)  # DeepSpeed writes -1 for infinity and NaN
        at = torch.where(sound, NEVER, float(self.updates))
        self._diverged_at = torch.minimum(self._diverged_at.to(at.device), at)

    def _norm_of_gradients(self) -> Tensor:
        """ZeRO 0 in fp32 clips but keeps no norm; there every rank holds all averaged gradients before the step."""
        parameters = self.module.parameters()
        return torch.nn.utils.get_total_norm([given.grad for given in parameters if given.grad is not None])

    def gathered_trainable_state(self) -> dict[str, Tensor]:
        """All trainable parameters by name as CPU copies in float32, whole on rank 0 (other ranks get {}; collective).

        These are the optimizer's own float32 weights, also where the model computes in bfloat16.
        """
        state, masters = {}, self._unsplit_masters()
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                continue
            whole = (
                safe_get_full_fp32_param(parameter) if self.zero_stage else masters.get(parameter, parameter).detach()
            )
            if self.ranks.is_main:
                state[name] = whole.to("cpu", torch.float32, copy=True)
        return state

    def _unsplit_masters(self) -> dict[nn.Parameter, Tensor]:
        """The float32 weights of ZeRO 0 in bf16 by parameter; elsewhere nothing."""
        if self.zero_stage or self.dtype == torch.float32:
            return {}
        groups = zip(self.optimizer.fp16_groups, self.optimizer.fp32_groups, strict=True)
        return {parameter: master for group in groups for parameter, master in zip(*group, strict=True)}

    def save(self, folder: Path, tag: str, client_state: dict[str, Any]) -> None:
        """Every rank writes its part of the checkpoint `folder/tag`; frozen weights stay out; no pointer is moved.

        Raises:
            UserError: on every rank, when one of them could not write its part.
        """
        client_state = {**client_state, "updates": self.updates}
        with failures_kept(self.deepspeed) as failures:
            self.deepspeed.save_checkpoint(
                str(folder), tag=tag, client_state=client_state, save_latest=False, exclude_frozen_parameters=True
            )

        def tell() -> None:
            with told_as_failed_save(folder / tag):
                for failure in failures:
                    raise failure

        self.ranks.together(tell)

    def load(self, folder: Path, tag: str) -> dict[str, Any]:
        """Read checkpoint `folder/tag` back into model and optimizer; the client state that `save` was given.

        Raises:
            UserError: the checkpoint holds other parameters than the trainable ones of this model.
        """
        with own_settings(self.optimizer):
            path, client_state = self.deepspeed.load_checkpoint(
                str(folder), tag=tag, load_module_strict=False, custom_load_fn=_load_only_trainable
            )
        if path is None:
            raise UserError(f"DeepSpeed found nothing to load in '{folder / tag}'.")
        self.updates = int(client_state["updates"])
        return dict(client_state)

    def load_of_other_ranks(self, checkpoints: CheckpointFolder, tag: str) -> dict[str, Any]:
        """As `load`, for a checkpoint that another number of ranks has written: converted first where ZeRO splits it.

        Raises:
            UserError: the conversion failed, or the checkpoint holds other parameters than this model.
        """
        if self.zero_stage == 0:
            return self.load(checkpoints.folder, tag)
        self.ranks.on_main(lambda: convert(checkpoints, tag))
        with own_settings(self.optimizer):
            state = read_converted(self.deepspeed, checkpoints.folder / tag)
        self.updates = int(state["updates"])
        return state


def _load_only_trainable(src: Mapping[str, Tensor], dst: nn.Module) -> None:
    """Load a checkpoint without its frozen half and prove that nothing else is missing and nothing is left over."""
    try:
        missing, unexpected = dst.load_state_dict(src, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The checkpoint does not belong to this model: {reason}") from error
    trainable = {name for name, parameter in dst.named_parameters() if parameter.requires_grad}
    lost = sorted(trainable.intersection(missing))
    if lost or unexpected:
        raise UserError(
            f"The checkpoint does not belong to this model: {len(lost)} trainable parameters are missing in it"
            f" {lost[:3]}, {len(unexpected)} are unknown {list(unexpected)[:3]}."
            " Resume with the model and strategy the run was started with."
        )
