"""The models that `adaptive-ft invariance` compares: runs, folders or hub ids, each as a reader of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.analysis.representations import Reader, hooked, weights_hash
from adaptive_ft.components import ComponentMap
from adaptive_ft.config import RunConfig
from adaptive_ft.data.reading.batch import PictureBatch, RawBatch
from adaptive_ft.data.reading.shard_set import ShardSet
from adaptive_ft.errors import UserError
from adaptive_ft.measured.inputs import Feeding, fed_pictures, fed_questions
from adaptive_ft.measured.layers import real_places, taps, without_padding
from adaptive_ft.models import describe
from adaptive_ft.models.loading import ModelConfig, build_base
from adaptive_ft.run_folder import RunFolder
from adaptive_ft.saving import LATEST, Restored, restore
from adaptive_ft.strategies import BLOCK
from adaptive_ft.subjects import Subject, choose_subject
from adaptive_ft.subjects.pictures import Pictures
from adaptive_ft.subjects.questions import Questions
from adaptive_ft.tasks.task import Task

NETWORK, GLOBAL = "network", "global"
"""Words of --policy beside those of a strategy: the run's policy as it decides, and one decision for all examples."""


@dataclass(frozen=True)
class Compared:
    """A model, how it is asked (`subject`, `task`, `config`), and which of its weights an example meets (`policy`, ""
    for a plain one). `tuned`: the share of each layer that is tuned, where one decision rules all examples.
    """

    role: str
    model: AdaptiveModel | PreTrainedModel
    subject: Subject
    task: Task
    config: RunConfig
    policy: str = ""
    tuned: Mapping[str, float] = field(default_factory=dict)

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
        return Compared("random", fresh, self.subject, self.task, self.config)

    def reader(self, device: torch.device, examples: PictureBatch | RawBatch) -> Reader:
        """Its blocks by the names of its layers, and what is read after the last one; fed with what is varied of
        `examples`.
        """
        model = self.model.to(device).eval().requires_grad_(False)
        anatomy = model.anatomy if isinstance(model, AdaptiveModel) else describe(model)
        feeding, places = self._feeding(device, examples), taps(anatomy, self.base, self.subject.facts.content)
        read = hooked(
            lambda inputs_B, numbers_B: model(**self._forced, **feeding.arguments(inputs_B, numbers_B)), places
        )
        # The head is not read, and that of a plain model is new where it has other classes.
        weights = weights_hash(model if isinstance(model, AdaptiveModel) else anatomy.backbone(model))
        decided = self.policy + "".join(f" {layer} {share}" for layer, share in self.tuned.items())
        fingerprint = f"{weights} {decided} {feeding.fingerprint}"
        return Reader(
            self.role, tuple(places), feeding.shape, without_padding(read, real_places(anatomy, feeding)), fingerprint
        )

    @property
    def _forced(self) -> dict[str, str]:
        """The argument that says which weights an example meets; a plain model has one set of them."""
        forced = isinstance(self.model, AdaptiveModel) and self.policy != NETWORK
        return {"policy": self.policy} if forced else {}

    def _feeding(self, device: torch.device, examples: PictureBatch | RawBatch) -> Feeding:
        if isinstance(self.subject, Pictures):
            return fed_pictures(self.subject.processing.normalisation, self.subject.framing(self.base).side)
        task: Any = self.task
        questions: Any = examples
        return fed_questions(task, questions, device)


def open_compared(
    role: str, name: str, policy: str, shards: ShardSet, beside: Compared | None = None, which: str = LATEST
) -> Compared:
    """The model called `name`: a run folder with its weights of checkpoint `which` as `policy` says, or else a folder
    or hub id, asked as the `shards` are read; about questions as `beside`, a run, asks them.

    Raises:
        UserError: no such model, a run without checkpoint or that looks at nothing, a model that reads something else
            than the shards hold, or a policy that its strategy does not know.
    """
    if is_run(name):
        return _of_run(role, name, policy, which)
    config = RunConfig(model=ModelConfig(name=name))
    if beside is None or not isinstance(beside.subject, Questions):
        return _plain(role, config, choose_subject(config, shards))
    # Other tokens, or questions cut elsewhere, would be another input: the run's own tokenizer and length are taken.
    return _plain(role, replace(config, task=beside.config.task), beside.subject)


def open_base(role: str, run: Compared, folder: RunFolder) -> Compared:
    """The base that `run`, in `folder`, started from: unlike the run all frozen, with the embeddings, the final norm
    and the pooler as they were pretrained.

    Raises UserError where it is not there any more.
    """
    # A base that was random, all or in part, lies in the run's folder: nothing else would give it again.
    own = ModelConfig(name=str(folder.base)) if folder.base.is_dir() else run.config.model
    return _plain(role, replace(run.config, model=own), run.subject)


def is_run(name: str) -> bool:
    """Whether a model's name is the folder of a run."""
    return RunFolder(Path(name)).config_file.is_file()


def _plain(role: str, config: RunConfig, subject: Subject) -> Compared:
    base = build_base(config.model, subject.facts)
    return Compared(role, base, subject, subject.task(config, base), config)


def _of_run(role: str, name: str, policy: str, which: str) -> Compared:
    restored = restore(Path(name), which)
    model = restored.model
    if isinstance(restored.subject, Questions) and restored.subject.blind:
        raise UserError(f"The run '{name}' sees nothing but questions: there is nothing to vary in a picture.")
    words = (NETWORK, GLOBAL, *model.tying.unit.constants)
    if policy not in words:
        raise UserError(
            f"The {role} model '{name}' has strategy '{model.config.strategy}', which knows no policy '{policy}', only"
            f" {', '.join(words)}: name another, or give a plain model."
        )
    if policy != NETWORK:
        return _ruled(role, restored, policy)
    if not model.decisions:
        return _ruled(role, restored, None)
    if model.config.eval_decisions == "sample":
        raise UserError(f"The policy of '{name}' draws its decisions anew for every batch: read it as {GLOBAL}.")
    default = model.decider.default(training=False)
    if default is not None:
        return _ruled(role, restored, default)
    return Compared(role, model, restored.subject, restored.task, restored.config, NETWORK)


def _ruled(role: str, restored: Restored, word: str | None) -> Compared:
    """The model where one decision, or a strategy without any, rules all examples."""
    model: Any = restored.model
    gates_C = model.decider.for_all_inputs(word)
    tuned = _share_by_layer(model.components, gates_C.tolist()) if word == GLOBAL else {}
    # One set of weights makes plain modules, which cost a plain model's time. Whole blocks that are left out would be
    # missing layers: they stay, and pass their input on.
    if model.tying.unit != BLOCK:
        model = model.merge_and_unload(word)
    return Compared(role, model, restored.subject, restored.task, restored.config, word or NETWORK, tuned)


def _share_by_layer(components: ComponentMap, gates_C: list[float]) -> dict[str, float]:
    """The mean gate of the live components of every layer that has some."""
    by_layer: dict[str, list[float]] = {}
    for component, live, gate in zip(components.components, components.live, gates_C, strict=True):
        if live:
            by_layer.setdefault(component.layer, []).append(gate)
    return {layer: sum(gates) / len(gates) for layer, gates in by_layer.items()}
