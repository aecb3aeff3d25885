"""The models that `adaptive-ft invariance` compares: runs, folders or hub ids, each as a reader of its blocks.

Shapes: B pictures with pixels in [0, 1], 3 = red green blue, H and W rows and columns of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.representations import Forward, Reader, Tap, hooked, weights_hash
from adaptive_ft.data.format.manifest import LABELLED_PICTURES
from adaptive_ft.data.pixels import Framing
from adaptive_ft.errors import UserError
from adaptive_ft.models import Anatomy, describe
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.subjects.picture_processing import load_processing
from adaptive_ft.subjects.pictures import Pictures
from adaptive_ft.tasks.classification import WHITE_LEVEL

NORM = "norm"
"""The layer after the last block: the class token behind the final norm."""
_FINAL_NORMS = ("layernorm", "post_layernorm")


@dataclass(frozen=True)
class Compared:
    """A model, how it is fed (`subject`), and which of its weights a picture meets (`policy`, "" for a plain one)."""

    role: str
    model: AdaptiveModel | PreTrainedModel
    subject: Pictures
    policy: str = ""

    @property
    def base(self) -> PreTrainedModel:
        """The model of the library, its leaves gated where it is adapted."""
        found: Any = self.model.base if isinstance(self.model, AdaptiveModel) else self.model
        plain: PreTrainedModel = found
        return plain

    @property
    def framing(self) -> Framing:
        """The frame it takes pictures in."""
        return self.subject.framing(self.base)

    def at_random(self, seed: int) -> "Compared":
        """The same model with new random weights, fed in the same way."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(self.base)(self.base.config)
        return Compared("random", fresh, self.subject)

    def reader(self, device: torch.device) -> Reader:
        """Its blocks by the names of its layers, and the class token behind the final norm; pixels in [0, 1]."""
        model = self.model.to(device).eval().requires_grad_(False)
        anatomy = model.anatomy if isinstance(model, AdaptiveModel) else describe(model)
        taps = _taps(anatomy, self.base)
        side = self.framing.side
        fingerprint = f"{weights_hash(model)} {self.policy} {self.subject.processing.normalisation}"
        return Reader(self.role, tuple(taps), (3, side, side), hooked(self._forward(), taps), fingerprint)

    def _forward(self) -> Forward:
        model, normalise = self.model, self.subject.processing.normalisation
        # An adaptive model that is not merged is one whose network decides picture by picture.

        def forward(pixels_B3HW: Tensor, _: Tensor) -> object:
            return model(pixel_values=normalise(WHITE_LEVEL * pixels_B3HW))

        return forward


def open_compared(role: str, name: str, policy: str, classes: Sequence[str]) -> Compared:
    """The model called `name`: a run folder with its weights as `policy` says, or else a folder or hub id.

    Raises:
        UserError: no such model, a run without checkpoint, one that does not look at pictures, or a policy that its
            strategy does not know.
    """
    if RunFolder(Path(name)).config_file.is_file():
        return _of_run(role, name, policy)
    facts = DataFacts(classes, content=LABELLED_PICTURES)
    model = build_base(ModelConfig(name=name), facts)
    return Compared(role, model, Pictures(classes, load_processing(name)))


def _of_run(role: str, name: str, policy: str) -> Compared:
    restored = restore(Path(name))
    if not isinstance(restored.subject, Pictures):
        raise UserError(f"The run '{name}' answers questions: invariances are measured on models of pictures.")
    model = restored.model
    words = ("network", "global", *model.tying.unit.constants)
    if policy not in words:
        raise UserError(
            f"The {role} model '{name}' has strategy '{model.config.strategy}', which knows no policy '{policy}', only"
            f" {', '.join(words)}: name another, or give a plain model."
        )
    if policy == "network" and model.decisions and model.config.eval_decisions == "sample":
        raise UserError(f"The policy of '{name}' draws its decisions anew for every batch: choose --policy global.")
    if policy == "network" and model.decider.default(training=False) is None and model.decisions:
        return Compared(role, model, restored.subject, policy)
    # One set of weights for all pictures: plain modules, which cost a plain model's time.
    word = None if policy == "network" and not model.decisions else ("global" if policy == "network" else policy)
    merged: Any = model.merge_and_unload(word)
    return Compared(role, merged, restored.subject, policy)


def _taps(anatomy: Anatomy, base: nn.Module) -> dict[str, Tap]:
    layers = anatomy.components.layers
    taps = {layer: Tap(base.get_submodule(block.path)) for layer, block in zip(layers, anatomy.blocks, strict=True)}
    backbone = anatomy.backbone(base)
    blocks = tuple(base.get_submodule(block.path) for block in anatomy.blocks)
    inside = {id(module) for block in blocks for module in block.modules()}
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in _FINAL_NORMS and id(module) not in inside:
            taps[NORM] = Tap(module, _class_token)
            return taps
    raise UserError(f"A {type(backbone).__name__} has no final norm to read: only models of pictures are compared.")


def _class_token(output: Tensor) -> Tensor:
    """[B, X] of [B, places, X]; CLIP's last norm sees nothing but the class token."""
    return output if output.dim() == 2 else output[:, 0]
