"""Parameter groups with their own learning rates, and the one schedule all of them follow."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW

NamedParameters = Sequence[tuple[str, nn.Parameter]]


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and linear decay; one learning rate per kind of parameter."""

    learning_rate: float = 5e-5
    """Of the deltas and of the parts that always train (embeddings, pooler)."""
    head_learning_rate: float | None = None
    """Of the task head; default: learning_rate."""
    policy_learning_rate: float | None = None
    """Of the policy network; default: learning_rate. (The original's plain SGD at 1e-4 hardly moves.)"""
    weight_decay: float = 1e-4
    """Decoupled; on a delta it pulls towards the pretrained weight (L2-SP), not towards zero."""
    delta_weight_decay: float | None = None
    """Of the deltas alone, where a strategy has them (blockdrop has none); default: weight_decay."""
    decay: Literal["all", "matrices"] = "all"
    """Which parameters decay: all (as the original) or only those with two or more dimensions."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    warmup_ratio: float = 0.1
    """Share of all updates during which the learning rate rises linearly."""
    warmup_steps: int | None = None
    """The same as a number of updates; takes the place of warmup_ratio."""
    max_grad_norm: float = 1.0
    """Clip the global gradient norm of all groups together (the original clipped the main network only); 0 = never."""

    def warmup_updates(self, total_updates: int) -> int:
        """Updates of warm-up in a run of `total_updates`, at most all of them."""
        wanted = round(self.warmup_ratio * total_updates) if self.warmup_steps is None else self.warmup_steps
        return min(wanted, total_updates)


def build_optimizer(groups: Mapping[str, NamedParameters], config: OptimConfig, *, fused: bool) -> AdamW:
    """AdamW over the named groups "delta", "other", "head", "policy"; empty groups are left out.

    Each torch group carries `name` (for logs) and `base_lr` (for the schedule).
    """
    rates = {
        "delta": config.learning_rate,
        "other": config.learning_rate,
        "head": _or(config.head_learning_rate, config.learning_rate),
        "policy": _or(config.policy_learning_rate, config.learning_rate),
    }
    decays = dict.fromkeys(rates, config.weight_decay)
    decays["delta"] = _or(config.delta_weight_decay, config.weight_decay)
    torch_groups: list[dict[str, Any]] = []
    for name, members in groups.items():
        for suffix, weight_decay, chosen in _by_decay(members, decays[name], config.decay):
            if chosen:
                torch_groups.append(
                    {
                        "params": [parameter for _, parameter in chosen],
                        "lr": rates[name],
                        "base_lr": rates[name],
                        "weight_decay": weight_decay,
                        "name": name + suffix,
                    }
                )
    return AdamW(torch_groups, betas=config.betas, eps=config.eps, fused=fused)


def _by_decay(members: NamedParameters, weight_decay: float, which: str) -> list[tuple[str, float, NamedParameters]]:
    if which == "all":
        return [("", weight_decay, members)]
    matrices = [(name, parameter) for name, parameter in members if parameter.ndim >= 2]
    vectors = [(name, parameter) for name, parameter in members if parameter.ndim < 2]
    return [("", weight_decay, matrices), (".no_decay", 0.0, vectors)]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def schedule_factor(update: int, total_updates: int, warmup: int) -> float:
    """Factor on every base learning rate at `update` (0-based): linear warm-up, then linear decay.

    f(k) = (k + 1) / w for k < w, else (t - k) / (t - w), w the updates of warm-up. Neither the first nor the last
    update is wasted on a rate of zero (the original's first or last one was).
    """
    if update < warmup:
        return (update + 1) / warmup
    return max(0.0, (total_updates - update) / max(1, total_updates - warmup))


def set_learning_rates(optimizer: Any, factor: float) -> dict[str, float]:
    """Write base_lr * factor into every group of `optimizer`; the rates by group name.

    A pure function of the update count, so a resumed run needs no scheduler state and groups keep their own rates
    (DeepSpeed's schedulers collapsed them before 0.19.4: DeepSpeed PR#8171).
    """
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
        rates[group["name"]] = group["lr"]
    return rates


@contextmanager
def own_settings(optimizer: Any) -> Iterator[None]:
    """Inside, a checkpoint may be loaded into `optimizer`; afterwards its groups have their own settings back.

    A checkpoint brings rates, decay, betas and eps of the run that wrote it; those of this run's config count.
    """
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
