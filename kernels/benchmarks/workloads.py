"""The two models that bench_model.py trains, in each way of fine-tuning them; random weights and inputs.

ordinary: every weight trains. adaptive: this project, each gate tuned for half of the samples, with full deltas
unless a rank is named. two branches: the same model with both branches computed in full and mixed, as the method's
first code did. Run as a program, it prints the peak memory in MiB of one training step in a fresh process:

    python kernels/benchmarks/workloads.py lxmert adaptive
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.gates import GateHolder
from adaptive_ft.models import describe
from adaptive_ft.models.loading import DataFacts, ModelConfig, build_base
from adaptive_ft.policy import PolicyConfig
from adaptive_ft.strategies import tie
from adaptive_ft.wrapping import gating
from adaptive_ft_kernels import use_path
from measuring import DEVICE, DTYPE, ON_GPU

QUARTER = "adaptive, 1/4 of the gate gradients"
LOW_RANK = "adaptive, deltas of rank 8"
RANKS = {LOW_RANK: 8}
WAYS = ("ordinary", "adaptive", QUARTER, LOW_RANK, "two branches")
SAMPLES, WORDS, REGIONS, ANSWERS, FEATURES, VOCABULARY = 32, 20, 36, 3129, 2048, 30522
BERT_LAYERS, BERT_HEADS, BERT_ROWS = 12, 12, WORDS + REGIONS
MODELS = {
    "lxmert": f"LXMERT-base ({SAMPLES} samples, {WORDS} words, {REGIONS} regions, {ANSWERS} answers)",
    "bert": f"encoder of VL-BERT-base's size ({SAMPLES} samples, {BERT_ROWS} rows, {BERT_LAYERS} layers of 15 gates)",
}


@dataclass(frozen=True)
class Workload:
    """A model in one way: `output` runs it, as often as it is called, on the same inputs."""

    model: nn.Module
    output: Callable[[], Tensor]
    target: Tensor

    def train_step(self) -> None:
        """Forward and backward; the optimizer's step, much the same in all ways, is left out."""
        self.model.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(self.output().float(), self.target).backward()

    def evaluate(self) -> None:
        with torch.no_grad():
            self.output()


def build(model: str, way: str) -> Workload:
    """The workload `model` ("lxmert" or "bert") in `way`, in training mode.

    It demands the path of this way from the kernels, for the whole process.
    """
    torch.manual_seed(0)
    use_path("reference" if way == "two branches" else "auto")
    return {"lxmert": _lxmert, "bert": _bert}[model](way)


def _fraction(way: str) -> float:
    return 0.25 if way == QUARTER else 1.0


def _lxmert(way: str) -> Workload:
    """Two branches come with the mirror policy, as in the original; ours with the light one."""
    facts = DataFacts([str(answer) for answer in range(ANSWERS)], FEATURES, VOCABULARY)
    model: nn.Module = build_base(ModelConfig(), facts)
    if way != "ordinary":
        policy = PolicyConfig(kind="mirror" if way == "two branches" else "light")
        # Sampling also in evaluation: the likelier choices of an untrained policy are the same for all inputs.
        fraction, rank = _fraction(way), RANKS.get(way)
        config = AdaptiveConfig(policy=policy, eval_decisions="sample", gate_grad_fraction=fraction, delta_rank=rank)
        model = get_adaptive_model(model, config)
    model.to(DEVICE, DTYPE)
    inputs = {
        "input_ids": torch.randint(1, VOCABULARY, (SAMPLES, WORDS), device=DEVICE),
        "attention_mask": torch.ones(SAMPLES, WORDS, device=DEVICE),
        "visual_feats": torch.randn(SAMPLES, REGIONS, FEATURES, device=DEVICE, dtype=DTYPE),
        "visual_pos": torch.rand(SAMPLES, REGIONS, 4, device=DEVICE, dtype=DTYPE),
        "visual_attention_mask": torch.ones(SAMPLES, REGIONS, device=DEVICE),
    }
    target = torch.rand(SAMPLES, ANSWERS, device=DEVICE)
    return Workload(model, lambda: model(**inputs).question_answering_score, target)


def _bert(way: str) -> Workload:
    """The encoder with random gates of its heads, attention outputs and FFNs."""
    strategy = None if way == "ordinary" else "spottune"
    gates = torch.randint(2, (SAMPLES, BERT_LAYERS * (BERT_HEADS + 3)), device=DEVICE).float()
    return _encoder(strategy, gates, _fraction(way), RANKS.get(way))


def blockdrop(num_used: int | None, fraction: float = 1.0) -> Workload:
    """The encoder whose samples use `num_used` layers each, drawn for each sample; None: the plain one.

    fraction: the share of the gate gradients of skipping samples that a training step evaluates. It demands the path
    of our models from the kernels, for the whole process.
    """
    torch.manual_seed(0)
    use_path("auto")
    gates = (torch.rand(SAMPLES, BERT_LAYERS, device=DEVICE).argsort(dim=1) < (num_used or 0)).float()
    return _encoder(None if num_used is None else "blockdrop", gates, fraction, None)


def _encoder(strategy: str | None, gates_BD: Tensor, fraction: float, delta_rank: int | None) -> Workload:
    """BertModel of the base size on ready embeddings, gated as `get_adaptive_model` gates it for `strategy` (None: not
    at all); the gates of the decisions take the place of a policy.
    """
    model = BertModel(BertConfig(num_hidden_layers=BERT_LAYERS), add_pooling_layer=False)
    holder, anatomy = GateHolder(fraction), describe(model)
    tying = tie(strategy or "standard", anatomy.components)
    if strategy is not None:
        gating(anatomy, tying, delta_rank).wrap(model, holder)
    model.to(DEVICE, DTYPE)
    embedded = torch.randn(SAMPLES, BERT_ROWS, model.config.hidden_size, device=DEVICE, dtype=DTYPE)
    target = torch.rand(SAMPLES, BERT_ROWS, model.config.hidden_size, device=DEVICE)

    def output() -> Tensor:
        if strategy is not None:
            holder.set(tying.expand(gates_BD.clone().requires_grad_(torch.is_grad_enabled())))
        return model(inputs_embeds=embedded).last_hidden_state

    return Workload(model, output, target)


def memory_of_a_step(model: str, way: str) -> float:
    """Peak memory in MiB of one training step: weights, gradients, activations, work space.

    On CUDA what the allocator handed out; on a CPU the process's peak above what it held with all libraries
    loaded but no model. To be called once, in a fresh process.
    """
    before = 0.0 if ON_GPU else _resident("VmRSS")
    workload = build(model, way)
    if not ON_GPU:
        # Building peaks above what stays; from here on the peak is that of the step.
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()
    workload.train_step()
    return torch.cuda.max_memory_allocated() / 2**20 if ON_GPU else _resident("VmHWM") - before


def _resident(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MiB, as Linux counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    print(memory_of_a_step(*sys.argv[1:]))
