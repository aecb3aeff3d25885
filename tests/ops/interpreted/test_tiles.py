"""How float32 products run under either of torch's settings, and which operands are copied 16 bytes at a time."""

from collections.abc import Iterator

import pytest
import torch

from adaptive_ft_kernels.triton_path.tiles import copied_whole, dot_precision

MATMUL = torch.backends.cuda.matmul


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts torch's own settings back."""
    before = MATMUL.fp32_precision if hasattr(MATMUL, "fp32_precision") else MATMUL.allow_tf32
    yield
    if hasattr(MATMUL, "fp32_precision"):
        MATMUL.fp32_precision = before
    else:
        MATMUL.allow_tf32 = before


@pytest.mark.usefixtures("settings")
def test_allow_tf32() -> None:
    for allowed, precision in ((True, "tf32"), (False, "ieee")):
        MATMUL.allow_tf32 = allowed
        assert dot_precision(torch.float32) == precision
        assert dot_precision(torch.float16) == "ieee"


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="this torch has allow_tf32 alone")
@pytest.mark.usefixtures("settings")
def test_fp32_precision() -> None:
    for precision in ("tf32", "ieee"):
        MATMUL.fp32_precision = precision
        assert dot_precision(torch.float32) == precision


def test_copied_whole() -> None:
    numbers = torch.zeros(64)
    assert copied_whole((numbers, numbers[4:], numbers[8:].half()), 16, 768)
    assert not copied_whole((numbers, numbers[1:]), 16)
    assert not copied_whole((numbers,), 16, 24)
