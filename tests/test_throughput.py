"""Operations against counts by hand, tokens of every kind of input, the meter on one rank and on two."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.throughput import ProductCounter, ThroughputMeter, num_tokens, peak_memory_gib, product_speed
from tests.models.tiny_families import TINY

VIT = TINY["vit"]
ROWS, INPUTS, HIDDEN, OUTPUTS = 6, 3, 5, 2
FIRST, SECOND = 2 * ROWS * INPUTS * HIDDEN, 2 * ROWS * HIDDEN * OUTPUTS


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, OUTPUTS))


def test_a_layer_that_trains_costs_its_forward_and_both_gradients() -> None:
    """But no gradient of the data; rows of several dimensions count all; nothing counts outside."""
    counter = ProductCounter(model := two_layers())
    x = torch.ones(2, 3, INPUTS)
    with counter.counting():
        model(x)
    assert counter.flops == 2 * FIRST + 3 * SECOND
    model(x)
    assert counter.flops == 2 * FIRST + 3 * SECOND


@pytest.mark.parametrize(("frozen", "expected"), [(0, FIRST + 2 * SECOND), (1, 2 * FIRST + 2 * SECOND)])
def test_a_frozen_layer_has_no_weight_gradient(frozen: int, expected: int) -> None:
    """Nor is there an input gradient where nothing before it trains."""
    model = two_layers()
    model[frozen].requires_grad_(False)
    counter = ProductCounter(model)
    with counter.counting():
        model(torch.ones(ROWS, INPUTS))
    assert counter.flops == expected


def test_what_is_computed_again_in_the_backward_pass_counts_once() -> None:
    """With activation checkpointing as without."""
    counter = ProductCounter(model := two_layers())
    with counter.counting():
        y = checkpoint(model, torch.ones(ROWS, INPUTS), use_reentrant=False)
    y.sum().backward()
    assert counter.flops == 2 * FIRST + 3 * SECOND


def test_gates_do_not_double_the_work() -> None:
    """An adaptive ViT costs what the plain one does, all of whose weights train, and its policy."""
    base = VIT.build()
    inputs = VIT.inputs(2)
    plain = ProductCounter(base)
    with plain.counting():
        base(**inputs)
    model = get_adaptive_model(VIT.build(), AdaptiveConfig("spottune"))
    adaptive, policy = ProductCounter(model), ProductCounter(model.policy)
    with adaptive.counting(), policy.counting():
        model(**inputs)
    assert policy.flops > 0
    assert adaptive.flops - policy.flops == plain.flops


def test_tokens_are_words_regions_and_patches() -> None:
    """With padding; a picture of 8 x 12 has 6 patches of 4 x 4."""
    words, regions = torch.zeros(2, 20, dtype=torch.long), torch.zeros(2, 36, 7)
    assert num_tokens({"input_ids": words, "visual_feats": regions, "attention_mask": words}, None) == 2 * 56
    assert num_tokens({"input_ids": words}, 4) == 40
    assert num_tokens({"pixel_values": torch.zeros(5, 3, 8, 12)}, 4) == 30


def test_a_window_is_what_happened_since_the_last(ranks: Ranks) -> None:
    """The utilisation is a share of the given speed; alone there is nobody to talk to."""
    model, inputs = get_adaptive_model(VIT.build(), AdaptiveConfig("spottune")), VIT.inputs(3)
    counter = ProductCounter(model)
    meter = ThroughputMeter(model, ranks, peak_tflops=1e-9)
    for number in (9, 10):
        with meter.update(number), meter.forward(inputs, 2), counter.counting():
            model(**inputs)
            time.sleep(0.02)
    window = meter.window()
    seconds = 2 * 2 / window["examples_per_second"]
    assert seconds >= 0.04
    assert window["tokens_per_second"] == pytest.approx(2 * 3 * 4 / seconds), "a picture of 8 x 8 has 4 patches"
    assert window["model_flops_utilization"] == pytest.approx(counter.flops / seconds / 1e3)
    assert window.keys() == {"examples_per_second", "tokens_per_second", "model_flops_utilization", "peak_memory_gib"}
    assert window["peak_memory_gib"] > 0
    assert meter.window().keys() == {"peak_memory_gib"}, "nothing has happened since"


def test_the_speed_of_products_is_one_that_a_processor_can_have() -> None:
    """Between a hundred million and a quadrillion a second, in both precisions."""
    for dtype in (torch.float32, torch.bfloat16):
        assert 1e8 < product_speed(torch.device("cpu"), dtype) < 1e15


def test_the_peak_memory_holds_what_was_once_allocated() -> None:
    """Half a GiB above what the process has had so far, and it stays after it was given back."""
    before = peak_memory_gib(torch.device("cpu"))
    held = torch.ones(int((before + 0.5) * 2**28))
    grown = peak_memory_gib(torch.device("cpu"))
    del held
    assert before + 0.4 < grown <= peak_memory_gib(torch.device("cpu"))


TWO_RANKS = """
import json, sys, time
from pathlib import Path
import torch, torch.distributed as dist
from adaptive_ft import AdaptiveConfig, get_adaptive_model
from adaptive_ft.engine.ranks import run_ranks
from adaptive_ft.throughput import ThroughputMeter
from transformers import BertConfig, BertModel

def main(ranks):
    base = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8))
    meter = ThroughputMeter(get_adaptive_model(base, AdaptiveConfig("standard")), ranks, 1.0)
    windows = []
    for numbers in ((9,), (10,), (109, 110, 111)):
        for number in numbers:
            with meter.update(number), meter.forward({"input_ids": torch.zeros(1, 8)}, 1 + ranks.rank):
                dist.all_reduce(torch.ones(2**18))
                time.sleep(0.1)
        windows.append(meter.window())
    Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(windows))

run_ranks(main)
"""


@pytest.mark.launch
def test_two_ranks_tell_the_same(launch: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path) -> None:
    """Examples and tokens are added up; of 1 MiB reduced over two ranks each sends 1 MiB. The update that is listened
    to has no part in the speed.
    """
    (tmp_path / "ranks.py").write_text(TWO_RANKS)
    done = launch("torchrun", "--standalone", "--nproc-per-node", "2", tmp_path / "ranks.py", tmp_path)
    assert done.returncode == 0, done.stderr
    windows, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert windows == other
    quiet, listened, mixed = windows
    assert quiet["tokens_per_second"] / quiet["examples_per_second"] == pytest.approx(16 / 3)
    assert "communication_share" not in quiet
    assert "examples_per_second" not in listened
    for window in (listened, mixed):
        assert window["communication_mib"] == 1
        assert 0 < window["communication_share"] < 1
    assert mixed["examples_per_second"] < 2 * 3 / 0.2, "two updates of at least 0.1 s, not three"
