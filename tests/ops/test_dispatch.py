"""Which path runs: decided once, said aloud, refused where it cannot run."""

import importlib.util
import logging

import pytest
import torch

from adaptive_ft_kernels import dispatch


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.VARIABLE, raising=False)
    monkeypatch.setattr(dispatch, "_demanded", [])
    monkeypatch.setattr(dispatch, "_chosen", {})


def test_a_cpu_takes_pytorch_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert [dispatch.path_on("cpu") for _ in range(3)] == ["torch"] * 3
    assert [record.message for record in caplog.records] == [
        "Gated operations on cpu: torch path, samples grouped by gate."
    ]


@pytest.mark.parametrize("name", ["torch", "reference"])
def test_the_variable_demands_a_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, name)
    assert dispatch.path_on("cpu") == name


def test_use_path_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    assert dispatch.path_on("cpu") == "torch"
    dispatch.use_path("reference")
    assert dispatch.path_on("cpu") == "reference"
    dispatch.use_path("auto")
    assert dispatch.path_on("cpu") == "torch"


def test_demanding_triton_where_it_cannot_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.use_path("triton")
    with pytest.raises(ValueError, match=r"demanded .* cannot run on cpu: they need a CUDA device"):
        dispatch.path_on("cpu")


def test_demanding_triton_without_its_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    dispatch.use_path("triton")
    with pytest.raises(ValueError, match="Triton is not installed"):
        dispatch.path_on("cpu")
    assert importlib.util.find_spec("triton")


def test_triton_leaves_float64_and_empty_tensors_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_missing_for_triton", lambda kind: "")
    dispatch.use_path("triton")
    assert dispatch.code_for(torch.ones(1)).linear.__name__ == "adaptive_ft_kernels.triton_path.linear"
    for tensor in (torch.ones(1, dtype=torch.float64), torch.ones(0, 3)):
        assert dispatch.code_for(tensor).linear.__name__ == "adaptive_ft_kernels.torch_path.linear"


def test_refuses_a_word_that_names_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="use_path is 'cuda'; choose one of auto, triton, torch, reference"):
        dispatch.use_path("cuda")  # type: ignore[arg-type]
    monkeypatch.setenv(dispatch.VARIABLE, "fast")
    with pytest.raises(ValueError, match="ADAPTIVE_FT_KERNELS is 'fast'"):
        dispatch.path_on("cpu")
