"""How a model is adapted: the options of `get_adaptive_model`, and their way through JSON and files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from adaptive_ft.adaptive_files import CONFIG_FILE, check_entries, read_description, write_description
from adaptive_ft.errors import UserError, nearest
from adaptive_ft.hub import local_folder
from adaptive_ft.policy import POLICIES, PolicyConfig, is_whole
from adaptive_ft.strategies import canonical
from adaptive_ft.wrapping import GateGradient

EvalDecisions = Literal["argmax", "sample", "global"]


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
    """Of the Gumbel softmax in training; it shapes the gradient, not the decisions. The original's; over four
    bases neither it nor 1 is shown to be better (docs/evidence.md)."""
    eval_decisions: EvalDecisions = "argmax"
    """argmax: no noise, a tie is frozen. sample: noise as in training. global: the majority of the last epoch's
    training decisions, the same for every input, without running the policy network."""
    gate_grad_fraction: float = 0.25
    """Share of samples whose gate gradient each component evaluates, above 0 to 1; below 1 it is cheaper and noisier,
    but unbiased. On the generated world shares down to 0.1 cost no more score than seeds differ (docs/evidence.md)."""
    final_temperature: float | None = None
    """Towards which the temperature moves exponentially over the run; default: it stays."""
    delta_rank: int | None = None
    """Rank of the deltas of linear layers, as LoRA's (biases and LayerNorms keep full ones); default: full deltas.
    gate_grad_fraction has no meaning there: the gate gradient costs next to nothing."""
    gate_gradient: GateGradient = "first_order"
    """first_order: one product a step beside those of the weights, at most. two_branch: every module runs frozen and
    tuned, and its outputs are mixed as in the original, at 5 products a step in all: to compare with (spottune on BERT
    and its kin, VL-BERT, LXMERT). gate_grad_fraction has no meaning there either."""

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str):
            raise UserError(f"strategy is {self.strategy!r}; it is a name, as 'spottune'.")
        canonical(self.strategy)
        if not isinstance(self.policy, PolicyConfig):
            known = str(self.policy) in POLICIES
            raise UserError(
                f"policy is {self.policy!r}; it is a PolicyConfig, as"
                f" PolicyConfig(kind={str(self.policy) if known else PolicyConfig.kind!r})."
                f"{'' if known else nearest(str(self.policy), POLICIES)}"
            )
        if not all(is_whole(layer) for layer in self.frozen_layers):
            raise UserError(f"frozen_layers are {list(self.frozen_layers)}; each is the number of a layer, from 0 up.")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}; it must be above 0 and finite.")
        if self.final_temperature is not None and not 0 < self.final_temperature < math.inf:
            raise UserError(f"final_temperature is {self.final_temperature}; it must be above 0 and finite.")
        if self.delta_rank is not None and not (is_whole(self.delta_rank) and self.delta_rank >= 1):
            raise UserError(f"delta_rank is {self.delta_rank}; it is at least 1, or left out for full deltas.")
        if not 0 < self.gate_grad_fraction <= 1:
            raise UserError(f"gate_grad_fraction is {self.gate_grad_fraction}; it lies above 0 and is at most 1.")
        if self.gate_gradient not in get_args(GateGradient):
            known = ", ".join(get_args(GateGradient))
            raise UserError(f"unknown gate_gradient '{self.gate_gradient}'; choose one of {known}.")
        if self.eval_decisions not in get_args(EvalDecisions):
            known = ", ".join(get_args(EvalDecisions))
            raise UserError(f"unknown eval_decisions '{self.eval_decisions}'; choose one of {known}.")

    def to_dict(self) -> dict[str, Any]:
        """All options as plain JSON values."""
        options = dataclasses.asdict(self)
        return {**options, "frozen_layers": list(self.frozen_layers)}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> "AdaptiveConfig":
        """The configuration from `to_dict`'s form; options that are not given have their defaults.

        Raises UserError for an option there is not, with the nearest name, and for an impossible value or one of
        another kind.
        """
        _check_known(cls, options, "")
        policy = options.get("policy", {})
        _check_known(PolicyConfig, policy, "policy.")
        try:
            layers = tuple(options.get("frozen_layers", ()))
            return cls(**{**options, "frozen_layers": layers, "policy": PolicyConfig(**policy)})
        except TypeError as error:
            raise UserError(f"the options of AdaptiveConfig have a value of the wrong kind: {error}.") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `adaptive_config.json` with these options alone into `folder`.

        Raises UserError where an adapted model is saved already: its own file holds more than options.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CONFIG_FILE).is_file() and "weights_sha256" in read_description(folder):
            raise UserError(f"'{folder}' holds a saved adaptive model, with its options; choose another folder.")
        write_description(folder, {"adaptive": self.to_dict()})

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> "AdaptiveConfig":
        """The options saved in a folder or a hub repository, alone or with an adapted model.

        Raises UserError when there are none, or when they are damaged or not known to this version.
        """
        folder = local_folder(source, [CONFIG_FILE], revision=revision, token=token)
        description = read_description(folder)
        check_entries(description, folder, ("adaptive",))
        return cls.from_dict(description["adaptive"])


def _check_known(owner: type, options: Mapping[str, Any], prefix: str) -> None:
    """Refuse names that the dataclass `owner` does not have."""
    if not isinstance(options, Mapping):
        raise UserError(f"'{prefix.rstrip('.')}' is a section of options, not the single value {options!r}.")
    known = [entry.name for entry in dataclasses.fields(owner)]
    for name in options:
        if name not in known:
            raise UserError(f"AdaptiveConfig has no option '{prefix}{name}'.{nearest(name, known)}")
