"""The models that `adaptive-ft invariance` compares: runs, folders or hub ids, each as a reader of its blocks.

Shapes: B examples, X features of a layer, E hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.representations import Read, Reader, Tap, hooked, weights_hash
from adaptive_ft.commands.measured_inputs import Feeding, fed_pictures, fed_questions
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.batch import PictureBatch, RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.models import Anatomy, describe
from adaptive_ft.models.anatomy import Block
from adaptive_ft.models.loading import ModelConfig, build_base
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import restore
from adaptive_ft.subjects import Subject, choose_subject
from adaptive_ft.subjects.pictures import Pictures
from adaptive_ft.subjects.questions import Questions
from adaptive_ft.tasks.task import Task

NORM, POOLED = "norm", "pooled"
"""What is read after the last block: the class token behind the final norm, or what the answer is read from."""
_FINAL_NORMS = ("layernorm", "post_layernorm")
_SEES_NOTHING = ("language",)
"""The streams of blocks that nothing of a picture reaches."""


@dataclass(frozen=True)
class Compared:
    """A model, how it is asked (`subject`, `task`), and which of its weights an example meets (`policy`, "" for a
    plain one).
    """

    role: str
    model: AdaptiveModel | PreTrainedModel
    subject: Subject
    task: Task
    policy: str = ""

    @property
    def base(self) -> PreTrainedModel:
        """The model of the library, its leaves gated where it is adapted."""
        found: Any = self.model.base if isinstance(self.model, AdaptiveModel) else self.model
        plain: PreTrainedModel = found
        return plain

    def fit(self, shards: ShardSet) -> ShardSet:
        """The shards as this model reads them; raises UserError where it cannot."""
        wanted, found = self.subject.facts.content, shards.manifest.content
        if wanted != found:
            raise UserError(
                f"The {self.role} model reads {wanted}, '{shards.address}' holds {found}: choose other shards."
            )
        return self.subject.fit(shards, self.base)

    def at_random(self, seed: int) -> "Compared":
        """The same model with new random weights, asked in the same way."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = type(self.base)(self.base.config)
        return Compared("random", fresh, self.subject, self.task)

    def reader(self, device: torch.device, examples: PictureBatch | RawBatch) -> Reader:
        """Its blocks by the names of its layers, and what is read after the last one; fed with what is varied of
        `examples`.
        """
        model = self.model.to(device).eval().requires_grad_(False)
        anatomy = model.anatomy if isinstance(model, AdaptiveModel) else describe(model)
        feeding, taps = self._feeding(device, examples), _taps(anatomy, self.base, self.subject)
        blocks = dict(zip(anatomy.components.layers, anatomy.blocks, strict=True))
        real = {layer: _real(blocks[layer], feeding) for layer in taps if layer in blocks and feeding.real_by_stream}
        # An adaptive model that is not merged is one whose network decides example by example.
        read = hooked(lambda inputs_B, numbers_B: model(**feeding.arguments(inputs_B, numbers_B)), taps)
        # The head is not read, and that of a plain model is new where it has other classes.
        weights = weights_hash(model if isinstance(model, AdaptiveModel) else anatomy.backbone(model))
        fingerprint = f"{weights} {self.policy} {feeding.fingerprint}"
        return Reader(self.role, tuple(taps), feeding.shape, _without_padding(read, real), fingerprint)

    def _feeding(self, device: torch.device, examples: PictureBatch | RawBatch) -> Feeding:
        if isinstance(self.subject, Pictures):
            return fed_pictures(self.subject.processing.normalisation, self.subject.framing(self.base).side)
        task: Any = self.task
        questions: Any = examples
        return fed_questions(task, questions, device)


def open_compared(role: str, name: str, policy: str, shards: ShardSet) -> Compared:
    """The model called `name`: a run folder with its weights as `policy` says, or else a folder or hub id, asked as
    the `shards` are read.

    Raises:
        UserError: no such model, a run without checkpoint or that looks at nothing, a model that reads something else
            than the shards hold, or a policy that its strategy does not know.
    """
    if RunFolder(Path(name)).config_file.is_file():
        return _of_run(role, name, policy)
    config = RunConfig(model=ModelConfig(name=name))
    subject = choose_subject(config, shards)
    base = build_base(config.model, subject.facts)
    return Compared(role, base, subject, subject.task(config, base))


def _of_run(role: str, name: str, policy: str) -> Compared:
    restored = restore(Path(name))
    subject, task, model = restored.subject, restored.task, restored.model
    if isinstance(subject, Questions) and subject.blind:
        raise UserError(f"The run '{name}' sees nothing but questions: there is nothing to vary in a picture.")
    words = ("network", "global", *model.tying.unit.constants)
    if policy not in words:
        raise UserError(
            f"The {role} model '{name}' has strategy '{model.config.strategy}', which knows no policy '{policy}', only"
            f" {', '.join(words)}: name another, or give a plain model."
        )
    if policy == "network" and model.decisions and model.config.eval_decisions == "sample":
        raise UserError(f"The policy of '{name}' draws its decisions anew for every batch: choose --policy global.")
    if policy == "network" and model.decider.default(training=False) is None and model.decisions:
        return Compared(role, model, subject, task, policy)
    # One set of weights for all examples: plain modules, which cost a plain model's time.
    word = None if policy == "network" and not model.decisions else ("global" if policy == "network" else policy)
    merged: Any = model.merge_and_unload(word)
    return Compared(role, merged, subject, task, policy)


def _taps(anatomy: Anatomy, base: nn.Module, subject: Subject) -> dict[str, Tap]:
    """The blocks that see the picture, and what comes after the last."""
    taps = {
        layer: Tap(base.get_submodule(block.path), _all_places(len(block.streams)))
        for layer, block in zip(anatomy.components.layers, anatomy.blocks, strict=True)
        if tuple(block.streams.values()) != _SEES_NOTHING
    }
    backbone = anatomy.backbone(base)
    if not isinstance(subject, Pictures):
        return {**taps, POOLED: Tap(backbone, _pooled)}
    blocks = tuple(base.get_submodule(block.path) for block in anatomy.blocks)
    inside = {id(module) for block in blocks for module in block.modules()}
    for name, module in backbone.named_modules():
        if name.rpartition(".")[2] in _FINAL_NORMS and id(module) not in inside:
            return {**taps, NORM: Tap(module, _class_token)}
    raise UserError(f"A {type(backbone).__name__} has no final norm to read: only models of pictures are compared.")


def _all_places(streams: int) -> Any:
    """Of a block with several outputs all places, one stream behind the other: [B, places, E]."""
    return None if streams == 1 else lambda outputs: torch.cat(outputs[:streams], dim=1)


def _pooled(output: Any) -> Tensor:
    """[B, E] behind the last block: LXMERT's and VL-BERT's outputs call it by two names."""
    found: Tensor = output["pooled_output" if "pooled_output" in output else "pooler_output"]
    return found


def _class_token(output: Tensor) -> Tensor:
    """[B, X] of [B, places, X]; CLIP's last norm sees nothing but the class token."""
    return output if output.dim() == 2 else output[:, 0]


def _real(block: Block, feeding: Feeding) -> Tensor:
    """bool [N, places] of all the streams of a block."""
    return torch.cat([feeding.real_by_stream[stream] for stream in block.streams.values()], dim=1)


def _without_padding(read: Read, real_by_layer: Mapping[str, Tensor]) -> Read:
    """The same with zeros at places that hold no word and no region."""

    def masked(inputs_B: Tensor, numbers_B: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        found = dict(read(inputs_B, numbers_B, layers))
        for layer in real_by_layer.keys() & found.keys():
            real_N = real_by_layer[layer]
            found[layer] = found[layer] * real_N[numbers_B.to(real_N.device)].unsqueeze(2)
        return found

    return masked
