"""An adapted model's way to a folder or the hub, and back: `save_pretrained`, `push_to_hub`, `from_pretrained`."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor, nn

from adaptive_ft.adaptive_config import AdaptiveConfig
from adaptive_ft.adaptive_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_entries,
    hash_weights,
    load_exactly,
    read_files,
    write_files,
)
from adaptive_ft.decider import Decider
from adaptive_ft.errors import UserError
from adaptive_ft.hub import local_folder, push
from adaptive_ft.models import Anatomy, describe
from adaptive_ft.models.recorded import check_same_base, load_recorded
from adaptive_ft.strategies import tie
from adaptive_ft.wrapping import gating, is_gated

# Below a saved adaptive model: the base it stands on, where nothing else could give that again.
OWN_BASE = "base"


class Saves(nn.Module):
    """The methods of an adapted model that write and read its two files; the model has the attributes below."""

    config: AdaptiveConfig
    anatomy: Anatomy
    decider: Decider
    base: nn.Module
    _base_record: dict[str, Any]
    """The base as it was when the model was adapted: what is cast later still starts from weights of that dtype."""
    _frozen_names: frozenset[str]
    _frozen_hash: str | None

    def adaptive_state_dict(self) -> dict[str, Tensor]:
        """All that is not frozen, by name: deltas, policy, head and the parts that always train.

        A weight that several modules share (a decoder tied to the embeddings) is there once, under its first name.
        """
        left_out = {f"base.{name}" for name in self._frozen_names} | self._second_names()
        return {name: value for name, value in self.state_dict().items() if name not in left_out}

    def _second_names(self) -> set[str]:
        """The names of shared weights but for the first of each."""
        names = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        return names - {name for name, _ in self.named_parameters()}

    def frozen_hash(self) -> str | None:
        """SHA-256 of the frozen weights as they were when the model was adapted; None where all of them train."""
        if self._frozen_names and self._frozen_hash is None:
            raise ValueError("the model was built without weights (meta device), so there is nothing to hash.")
        return self._frozen_hash

    def _saved(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`weights` by the names they are saved under: ids inside the layers, names in this module elsewhere."""
        ids = {name: self.anatomy.id_of(name.removeprefix("base.")) for name in weights}
        return {ids[name] or name: value for name, value in weights.items()}

    def save_pretrained(self, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write `adaptive_config.json` and `adaptive_model.safetensors` into `folder`: what is not frozen.

        state_dict: what `adaptive_state_dict` returns, gathered by an engine that has split the weights. Weights that
        modules share are written once; they are shared again when the base they are loaded onto shares them.
        """
        decided = self.decider.global_decisions
        description = {
            "base_model": self._base_record,
            "adaptive": self.config.to_dict(),
            "frozen_sha256": self.frozen_hash(),
            "decisions": list(self.decider.tying.decisions),
            "global_decisions": None if decided is None else decided.int().tolist(),
        }
        weights = self.adaptive_state_dict() if state_dict is None else state_dict
        second_names = self._second_names()
        once = {name: value for name, value in weights.items() if name not in second_names}
        write_files(Path(folder), description, self._saved(once))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload adaptive model",
    ) -> str:
        """Save the model with a model card into the hub's repository `repo_id`; the address of the commit.

        Nothing local is published: a base model that the hub does not know goes without its name.

        Raises UserError when the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(
                Path(folder),
                repo_id,
                self._size(),
                private=private,
                token=token,
                revision=revision,
                message=commit_message,
            )

    def _size(self) -> str:
        """The size of the base model, for people."""
        sizes: Any = self.anatomy.backbone(self.base).config
        return f"{len(self.anatomy.components.layers)} layers of width {sizes.hidden_size}"

    @classmethod
    def from_pretrained(
        cls, base_model: nn.Module | None, source: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Adapt `base_model` as it was saved in `source`, load the weights, and return it in evaluation mode.

        base_model: None loads the class and checkpoint that were written down. source: a folder or a hub id;
        revision and token are the hub's.

        Raises UserError when the files are missing or damaged, when the base model cannot be loaded, is adapted already
        or has another class, configuration, dtype or frozen weights than the one the model was adapted from, and when
        a weight is missing, unexpected or of another shape.
        """
        folder = local_folder(source, (CONFIG_FILE, WEIGHTS_FILE), revision=revision, token=token)
        description, weights = read_files(folder)
        check_entries(description, folder)
        config, recorded = AdaptiveConfig.from_dict(description["adaptive"]), description["base_model"]
        if base_model is None:
            base_model = load_recorded(_with_own_base(recorded, folder))
        check_not_adapted(base_model)
        check_same_base(recorded, base_model)
        anatomy = describe(base_model)
        tying = tie(config.strategy, anatomy.components, config.frozen_layers)
        frozen = gating(anatomy, tying, config.delta_rank, config.gate_gradient).frozen_weights(base_model)
        if hash_frozen(anatomy, frozen) != description["frozen_sha256"]:
            raise UserError(
                f"the base model differs: its frozen weights are not those that '{source}' was trained from "
                f"({recorded['name'] or 'a model without a name'}, {recorded['class']}). Load that checkpoint, in the "
                "same dtype."
            )
        model = cls(base_model, config)
        if list(model.decider.tying.decisions) != description["decisions"]:
            raise UserError(f"the decisions saved in '{source}' are not those of strategy '{model.config.strategy}'.")
        load_exactly(model._saved(model.adaptive_state_dict()), weights)
        decided = _global_decision(description, folder)
        model.decider.global_decisions = None if decided is None else torch.tensor(decided)
        return model.eval()


def _with_own_base(recorded: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The record of a base that no name brings back, with the one that lies in `folder` itself, if there is one."""
    own = folder / OWN_BASE
    return {**recorded, "name": str(own)} if not recorded["name"] and own.is_dir() else recorded


def _global_decision(description: Mapping[str, Any], folder: Path) -> list[int] | None:
    """The saved global decision, one entry for each saved decision, or None."""
    decided: list[int] | None = description["global_decisions"]
    if decided is not None and len(decided) != len(description["decisions"]):
        raise UserError(
            f"'{folder / CONFIG_FILE}': 'global_decisions' has {len(decided)} entries, 'decisions' has"
            f" {len(description['decisions'])}: take the file as save_pretrained wrote it, or save again."
        )
    return decided


def check_not_adapted(model: nn.Module) -> None:
    """Refuse a model that is adapted, or of which some part is."""
    adapted = [module.base for module in model.modules() if isinstance(module, Saves)]  # a merged one refuses itself
    if is_gated(model) or adapted:
        raise UserError("the model is adapted already; unload() gives the pretrained model back.")


def hash_frozen(anatomy: Anatomy, frozen: Mapping[str, Tensor]) -> str | None:
    """The hash of frozen weights, given by name, over their ids; None where there are none, or sizes but no values."""
    if not frozen:
        return None
    weights = {anatomy.id_of(name) or name: value for name, value in frozen.items()}
    return None if any(value.is_meta for value in weights.values()) else hash_weights(weights)
