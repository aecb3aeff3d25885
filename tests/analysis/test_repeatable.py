"""Measurements run in full float32 with deterministic algorithms, and leave what was set."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from adaptive_ft.analysis.invariance import stir, stir_matrices
from adaptive_ft.analysis.inversion import InversionConfig
from adaptive_ft.analysis.measured_images import MeasureConfig
from tests.analysis.small_readers import images, perceptron, reader_of


@pytest.fixture
def hasty() -> Iterator[None]:
    """Products of float32 may be short of digits."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("hasty")
def test_every_pass_is_exact_and_afterwards_all_is_as_before() -> None:
    reader, seen = reader_of(perceptron(1)), set()

    def looking(*asked: object) -> object:
        seen.add((torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()))
        return reader.read(*asked)  # type: ignore[arg-type]

    watched, config = replace(reader, read=looking), MeasureConfig(InversionConfig(iterations=2))  # type: ignore[arg-type]
    for measure in (
        lambda: stir_matrices(watched, {"itself": watched}, images(4), config),
        lambda: stir(watched, watched, ("block.0", "block.1"), images(4), config),
    ):
        measure()
        assert seen == {("highest", True)}
        assert torch.get_float32_matmul_precision() == "high"
        assert not torch.are_deterministic_algorithms_enabled()
        seen.clear()
