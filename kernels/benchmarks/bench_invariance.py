"""The matrix of shared invariances with one inversion per layer, beside one per pair of layers as in the authors' code.

    pytest kernels/benchmarks/bench_invariance.py

A ViT of 12 blocks and its final norm, 13 layers, both directions. Pair by pair, `stir` inverts both models for each of
the 13 x 13 pairs: 338 searches. One per layer of each model makes 26. Both ways make the same searches from the same
noise, and their matrices are compared; a search of 10 steps makes judging weigh more than in the 500 of a measurement.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import ViTConfig, ViTModel

from adaptive_ft.analysis.invariance import stir, stir_matrices
from adaptive_ft.analysis.inversion import InversionConfig
from adaptive_ft.analysis.measured_images import MeasureConfig
from adaptive_ft.analysis.representations import Reader, Tap, class_token, hooked
from measuring import DEVICE

Matrices = dict[str, NDArray[np.float64]]
"""STIR(F_j | P_i) as "kept" and STIR(P_j | F_i) as "back", rows the inverted layers."""

BLOCKS, SIDE, IMAGES = 12, 32, 16
SEARCHES = Counter[str]()
"""Passes with a gradient, by the model: a search of n steps makes n of them."""
CONFIG = MeasureConfig(InversionConfig(iterations=10))
WARM = MeasureConfig(InversionConfig(iterations=1))
TITLE = f"STIR of {BLOCKS + 1} x {BLOCKS + 1} layers, both directions ({IMAGES} pictures, 10 steps a search)"


@cache
def reader(seed: int) -> Reader:
    """A ViT of random weights."""
    torch.manual_seed(seed)
    sizes = ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=64, num_hidden_layers=BLOCKS, num_attention_heads=4,
        intermediate_size=128, initializer_range=0.1,
    )  # fmt: skip
    model = ViTModel(sizes, add_pooling_layer=False).eval().requires_grad_(False).to(DEVICE)
    taps = {f"layer.{number}": Tap(layer) for number, layer in enumerate(model.layers)}
    taps["norm"] = Tap(model.layernorm, class_token)
    read, name = hooked(lambda x, _: model(x), taps), f"model {seed}"

    def counting(inputs_B: torch.Tensor, numbers_B: torch.Tensor, layers: Sequence[str]) -> Mapping[str, torch.Tensor]:
        SEARCHES[name] += inputs_B.requires_grad
        return read(inputs_B, numbers_B, layers)

    return Reader(name, tuple(taps), (3, SIDE, SIDE), counting)


@cache
def pictures() -> torch.Tensor:
    """Uniform noise."""
    return torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).to(DEVICE)


def per_layer(config: MeasureConfig) -> Matrices:
    """One inversion per layer of each model."""
    pretrained, tuned = reader(1), reader(2)
    kept = stir_matrices(pretrained, {"judge": tuned}, pictures(), config)
    back = stir_matrices(tuned, {"judge": pretrained}, pictures(), config)
    return {"kept": kept.stir["judge"], "back": back.stir["judge"]}


def per_pair(config: MeasureConfig) -> Matrices:
    """Two inversions per pair of layers."""
    pretrained, tuned = reader(1), reader(2)
    size = len(pretrained.layers)
    found = {name: np.zeros((size, size)) for name in ("kept", "back")}
    for i, of_pretrained in enumerate(pretrained.layers):
        for j, of_tuned in enumerate(tuned.layers):
            pair = stir(tuned, pretrained, (of_tuned, of_pretrained), pictures(), config)
            found["kept"][i, j], found["back"][j, i] = pair.m1m2, pair.m2m1
    return found


WAYS: dict[str, tuple[Callable[[MeasureConfig], Matrices], int]] = {
    "one inversion per pair and direction (338)": (per_pair, 2 * 13 * 13),
    "one per layer and model (26)": (per_layer, 2 * 13),
}
"""By the name of a column: the way, and how many searches it makes."""


@pytest.fixture(scope="session")
def found() -> dict[str, Matrices]:
    """What every way has given."""
    return {}


@pytest.mark.parametrize("way", WAYS)
def test_matrices(benchmark: BenchmarkFixture, found: dict[str, Matrices], way: str) -> None:
    per_layer(WARM)
    benchmark.group = TITLE
    benchmark.extra_info.update(row="time", column=way, amount=None, unit="")
    run, searches = WAYS[way]
    SEARCHES.clear()
    found[way] = benchmark.pedantic(run, args=(CONFIG,), rounds=1)
    assert SEARCHES.total() == searches * CONFIG.inversion.iterations
    for matrices in found.values():
        for name, matrix in matrices.items():
            assert np.allclose(matrix, found[way][name], atol=1e-5)
