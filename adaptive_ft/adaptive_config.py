"""How a model is adapted: the options of `get_adaptive_model`, and back from their JSON form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adaptive_ft.errors import UserError
from adaptive_ft.policy import PolicyConfig


@dataclass
class AdaptiveConfig:
    """How a model is adapted."""

    strategy: str = "spottune"
    """spottune, spottune_res, spottune_block, blockdrop, standard, pretrained_frozen, last_K (as last_4) or
    specific_k."""
    frozen_layers: tuple[int, ...] = ()
    """For specific_k: 0-based numbers of the layers to freeze (LXMERT: language, then region, then cross)."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The network that decides."""
    temperature: float = 5.0
    """Of the Gumbel softmax in training; it shapes the gradient, not the decisions."""
    eval_decisions: Literal["argmax", "sample"] = "argmax"
    """argmax: no noise, a tie is frozen. sample: noise as in training."""
    gate_grad_fraction: float = 1.0
    """Share of samples whose gate gradient each component evaluates, above 0 to 1; below 1 it is cheaper and noisier,
    but unbiased."""
    final_temperature: float | None = None
    """Towards which the temperature moves exponentially over the run; default: it stays, as in the original."""
    delta_rank: int | None = None
    """Rank of the deltas of linear layers, as LoRA's (biases and LayerNorms keep full ones); default: full deltas.
    gate_grad_fraction has no meaning there: the gate gradient costs next to nothing."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}; it must be positive.")
        if self.final_temperature is not None and not self.final_temperature > 0:
            raise UserError(f"final_temperature is {self.final_temperature}; it must be positive.")
        if self.delta_rank is not None and self.delta_rank < 1:
            raise UserError(f"delta_rank is {self.delta_rank}; it is at least 1, or left out for full deltas.")
        if not 0 < self.gate_grad_fraction <= 1:
            raise UserError(f"gate_grad_fraction is {self.gate_grad_fraction}; it lies above 0 and is at most 1.")
        if self.eval_decisions not in ("argmax", "sample"):
            raise UserError(f"unknown eval_decisions '{self.eval_decisions}'; choose argmax or sample.")

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> "AdaptiveConfig":
        """The configuration from its JSON form. Raises UserError for options this version does not know."""
        try:
            layers, policy = tuple(saved["frozen_layers"]), PolicyConfig(**saved["policy"])
            return cls(**{**saved, "frozen_layers": layers, "policy": policy})
        except (KeyError, TypeError) as error:
            raise UserError(f"the saved configuration does not fit this version: {error}") from error
