"""A pretrained model, adapted: per input and component it uses pretrained (frozen) or tuned weights.

    model = get_adaptive_model(LxmertModel.from_pretrained(...), AdaptiveConfig(strategy="spottune"))
    output = model(**inputs)                    # the policy decides: output.gates [B, D]
    output = model(**inputs, policy="frozen")   # every gated weight as pretrained
    model.save_pretrained("adapted")            # what was learned; from_pretrained reads it

The interface is PEFT's where PEFT has a word for it; docs/api.md tells what differs.

Shape suffixes: B batch, C components, D decisions; x2 = (frozen, tuned).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.components import ComponentMap
from adaptive_ft.decider import Decider
from adaptive_ft.errors import UserError
from adaptive_ft.gates import GateHolder, annealed_temperature
from adaptive_ft.models import allow_recomputing, describe, undo_recomputing, undo_sdpa
from adaptive_ft.models.recorded import record_of
from adaptive_ft.outputs import with_gates
from adaptive_ft.policy import Policy, build_policy
from adaptive_ft.policy_log import LogsPolicy, PolicyLog
from adaptive_ft.pretrained import Saves, check_not_adapted, hash_frozen
from adaptive_ft.refusals import trains_as_before_on_failure
from adaptive_ft.strategies import tie
from adaptive_ft.wrapping import gating

RECOMPUTING = {"use_reentrant": False}
GROUPS = ("delta", "other", "head", "policy")
# What an adapted model is made of, and gives up when its base is given out as a plain model again.
PARTS = ("base", "policy", "tying", "decider", "holder", "gating", "log")


def get_adaptive_model(model: nn.Module, config: AdaptiveConfig | None = None) -> "AdaptiveModel":
    """Adapt `model` in place: gated leaves replace its encoder's, and a policy network joins it.

    Every encoder weight is frozen (none under blockdrop, which trains the layers themselves); what lies outside
    the encoder's layers (embeddings, pooler, head) trains, also where it was frozen before. Call it on a loaded
    model, before any engine splits the weights. config: None stands for `AdaptiveConfig()`.

    Raises UserError for an unknown model family or strategy, for a model that is adapted already or holds a part that
    is, and for layers that are not plain (quantised, hooked, compiled, of another adapter);
    the model is then as it was.
    """
    return AdaptiveModel(model, AdaptiveConfig() if config is None else config)


class AdaptiveModel(LogsPolicy, Saves):
    """The adapted model: `base` with gated leaves, and `policy` (None for a strategy without decisions).

    `components` and `tying` say what each column means, `decisions` are the names in documented order.
    """

    accepts_loss_kwargs = False
    """For transformers' Trainer: the loss is a mean over the micro-batch, so accumulation divides it."""

    def __init__(self, base: nn.Module, config: AdaptiveConfig) -> None:
        super().__init__()
        if not isinstance(config, AdaptiveConfig):
            raise UserError(
                f"config is a {type(config).__name__}; it is an AdaptiveConfig (AdaptiveConfig.from_dict reads one from"
                " plain values)."
            )
        check_not_adapted(base)
        self.config = config
        self.anatomy = describe(base)
        self.tying = tie(config.strategy, self.components, config.frozen_layers)
        self.decider = Decider(self.tying, config)
        self.holder = GateHolder(config.gate_grad_fraction)
        self.gating = gating(self.anatomy, self.tying, config.delta_rank, config.gate_gradient)
        self.log = PolicyLog()
        self._base_record = record_of(base)
        frozen = self.gating.frozen_weights(base)
        self._frozen_names = frozenset(frozen)
        self._frozen_hash = hash_frozen(self.anatomy, frozen)
        self._disabled = False
        self.base = base
        self.policy: Policy | None = None
        with trains_as_before_on_failure(base):
            base.requires_grad_(True)
            for weight in frozen.values():
                weight.requires_grad_(False)
            if self.tying.decisions:
                # Before the wrapping: a mirror copies plain weights from the backbone.
                self.policy = build_policy(config.policy, self.anatomy.backbone(base), len(self.decisions))
            allow_recomputing(base)
            self.gating.wrap(base, self.holder)

    @property
    def components(self) -> ComponentMap:
        """The gated components, in column order."""
        return self.anatomy.components

    @property
    def decisions(self) -> list[str]:
        """Names of the decisions, in the order of the columns of `gates` and of a forced policy."""
        return list(self.tying.decisions)

    @property
    def global_decisions(self) -> Tensor | None:
        """One decision for all inputs, bool [D] on the CPU: the majority of the last epoch's training decisions, or
        what was set; None before. Setting raises ValueError for another shape or values but 0 and 1.
        """
        return self.decider.global_decisions

    @global_decisions.setter
    def global_decisions(self, decisions_D: Tensor | None) -> None:
        self.decider.global_decisions = decisions_D

    def forward(self, *, policy: Tensor | str | None = None, **inputs: Any) -> ModelOutput:
        """Run the base model with gates from the policy network, or with those of `policy`.

        policy: None runs the network (in training Gumbel samples with straight-through gradients); a [B, D]
        tensor of 0 and 1 forces decisions (constants of the strategy stay), as does "global"; "frozen" and "tuned"
        set every component. Returns the base's output plus `gates` [B, D] and `policy_logits` [B, D, 2] (None when
        the network did not run). The gates stay in the holder until the next forward, for recomputed
        activations.

        Under blockdrop the one word is "used": every sample uses every block.

        Raises ValueError for a policy of another shape, value or word, for inputs of different batch sizes, and for
        outputs asked for that the strategy does not define (blockdrop: attentions); UserError for "global" before
        there is a global decision.
        """
        self._check_outputs(inputs)
        forced = "frozen" if self._disabled else policy
        if forced is None:
            forced = self.decider.default(training=self.training)
        if forced is None:
            decided = self.decider.from_network(self.policy, inputs, training=self.training)
        else:
            decided = self.decider.forced(forced, inputs)
        self.log.record(decided.gates_BD)
        self.holder.set(decided.gates_BC)
        return with_gates(self.base(**{**inputs, "return_dict": True}), decided.gates_BD, decided.logits_BD2)

    def anneal(self, share: float) -> None:
        """Set the Gumbel temperature to what it is after `share` of all updates, 0 to 1 (`annealed_temperature`)."""
        self.decider.temperature = annealed_temperature(self.config.temperature, self.config.final_temperature, share)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Keep only the inputs of every layer for the backward pass, in which the layer runs once more (transformers'
        own switch, of the backbone). Recomputed layers find the gates of their step.

        gradient_checkpointing_kwargs: for `torch.utils.checkpoint.checkpoint`; with the re-entrant form the backward
        pass raises ValueError. None stands for {"use_reentrant": False}. options: what else this transformers' switch
        knows (`every_n_layers`, `offload`).
        """
        backbone: Any = self.anatomy.backbone(self.base)
        # Older transformers have the other name only, newer ones a warning for it.
        new_name = getattr(backbone, "activation_checkpointing_enable", None)
        (new_name or backbone.gradient_checkpointing_enable)(
            dict(gradient_checkpointing_kwargs or RECOMPUTING), **options
        )

    def _check_outputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse what cannot be given back for samples that skip a layer."""
        by_default = getattr(self.base, "config", None)
        for name in self.tying.unit.refused:
            asked = inputs.get(name)
            if getattr(by_default, name, False) if asked is None else asked:
                raise ValueError(
                    f"{name} has no meaning for strategy '{self.config.strategy}': a sample has none in a layer that "
                    "it skips."
                )

    @property
    def pretrained_policy(self) -> str:
        """The word for `policy` that gives the pretrained model as long as nothing has been learned."""
        return self.tying.unit.pretrained

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside the context every forward is all frozen, whatever `policy` it is given.

        Raises UserError where no frozen half is kept (blockdrop).
        """
        if "frozen" not in self.tying.unit.constants:
            raise UserError(
                f"strategy '{self.config.strategy}' cannot be disabled: it trains the one copy of every layer, so no "
                "pretrained half is kept. Load the base model again."
            )
        before, self._disabled = self._disabled, True
        try:
            yield
        finally:
            self._disabled = before

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters by group, without empty groups: "delta", "other", "head", "policy".

        "head" is the task head outside the backbone; "other" is what always trains in it: embeddings, pooler.
        """
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[self._group(name)].append((name, parameter))
        return {group: members for group, members in groups.items() if members}

    def _group(self, name: str) -> str:
        """The group of a trainable parameter, from its name in this module."""
        owner, _, inside = name.partition(".")
        if owner == "policy":
            return "policy"
        if inside.rpartition(".")[0] in self.gating.with_deltas:
            return "delta"
        prefix = self.anatomy.prefix
        return "other" if inside.startswith(prefix and f"{prefix}.") else "head"

    def count_parameters(self) -> dict[str, int]:
        """Numbers of parameters: "trainable", "frozen", and those of each group by its name."""
        counts = dict.fromkeys(("trainable", "frozen", *GROUPS), 0)
        for name, parameter in self.named_parameters():
            # A parameter partitioned by ZeRO-3 is empty here and carries its true size as ds_numel.
            size = getattr(parameter, "ds_numel", parameter.numel())
            counts["trainable" if parameter.requires_grad else "frozen"] += size
            if parameter.requires_grad:
                counts[self._group(name)] += size
        return counts

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Numbers of trainable and of all parameters."""
        counts = self.count_parameters()
        return counts["trainable"], counts["trainable"] + counts["frozen"]

    def print_trainable_parameters(self) -> None:
        """Print trainable, all and their ratio in one line as PEFT does, then the trainable ones by group and the
        frozen ones.
        """
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")
        counts = self.count_parameters()
        print(" || ".join(f"{group}: {counts[group]:,}" for group in (*GROUPS, "frozen")))

    def unload(self) -> nn.Module:
        """The base model with its plain pretrained leaves back; the adapted model refuses every use afterwards.

        Embeddings, pooler and head (and the layers under blockdrop) keep the values they have now: they have no frozen
        half to go back to.
        """
        self.gating.unload(self.base)
        return self._given_out()

    def merge_and_unload(self, decision: Tensor | str | None = None) -> nn.Module:
        """The base model as plain modules of its library, each component with the weights that `decision` chooses.

        Under blockdrop the layers whose decision is 0 are left out, and the config counts those that stay.

        decision: 0 and 1 [D], "global", "tuned" or "frozen" (blockdrop: "used"); a strategy without decisions needs
        none. Raises UserError when the policy decides per input and no decision is given: one set of weights cannot
        stand for all inputs; ValueError for another shape, value or word. The adapted model refuses every use
        afterwards.
        """
        self.gating.merge(self.base, self.decider.for_all_inputs(decision))
        return self._given_out()

    def _given_out(self) -> nn.Module:
        """The base, plain by now, for its new owner; what is left here is `Spent`."""
        base = self.base
        undo_sdpa(base)
        undo_recomputing(base)
        for name in PARTS:
            delattr(self, name)
        self.__class__ = Spent
        return base.requires_grad_(True)


class Spent(AdaptiveModel):
    """What is left of an adapted model that was merged or unloaded: it holds no weights, and every use is refused."""

    def __getattribute__(self, name: str) -> Any:
        if name in USES:
            raise UserError(
                "this model was merged or unloaded; use the model that merge_and_unload or unload returned."
            )
        return super().__getattribute__(name)


# All that an adapted model is asked for beyond what every module has.
USES = frozenset(
    {*PARTS, *(name for kind in (AdaptiveModel, LogsPolicy, Saves) for name in vars(kind) if not name.startswith("_"))}
)
