"""Similarity: equal to plain numpy in float64, however the examples are cut into batches."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptive_ft.analysis.similarity import (
    CKA,
    SIMILARITIES,
    alignment,
    linear_cka,
    minibatch_cka,
    rbf_cka,
    summary_of,
    unbiased_alignment,
)
from adaptive_ft.errors import UserError

Floats = NDArray[np.float64]


def numpy_biased_cka(k: Floats, ell: Floats) -> float:
    """From Gram matrices, with the centring matrix written out."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(a: Floats, b: Floats) -> float:
        return float(np.trace(a @ h @ b @ h)) / (n - 1) ** 2

    return hsic(k, ell) / (hsic(k, k) * hsic(ell, ell)) ** 0.5


def numpy_rbf(x: Floats) -> Floats:
    squared = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
    return np.exp(-squared / (2 * np.median(squared[squared > 0])))


def numpy_unbiased_hsic(k: Floats, ell: Floats) -> float:
    """The formula of Song et al. (2012), term by term."""
    n = len(k)
    k, ell = k - np.diag(np.diag(k)), ell - np.diag(np.diag(ell))
    one = np.ones(n)
    terms = np.trace(k @ ell) + (one @ k @ one) * (one @ ell @ one) / ((n - 1) * (n - 2))
    return float(terms - 2 / (n - 2) * (one @ k @ ell @ one)) / (n * (n - 3))


def features(examples: int = 23) -> tuple[torch.Tensor, torch.Tensor]:
    """Two float32 representations that have something in common, away from the origin."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(examples, 2, 5, generator=generator) + 7
    y = x.flatten(1)[:, :6].tanh() + 0.4 * torch.randn(examples, 6, generator=generator) - 3
    return x, y


def as_numpy(values: torch.Tensor) -> Floats:
    return values.flatten(1).double().numpy()


def test_linear_cka_equals_the_formula() -> None:
    x, y = features()
    a, b = as_numpy(x), as_numpy(y)
    assert linear_cka(x, y) == pytest.approx(numpy_biased_cka(a @ a.T, b @ b.T), abs=1e-9)
    assert 0.05 < linear_cka(x, y) < 0.95


def test_rbf_cka_equals_the_formula() -> None:
    x, y = features()
    expected = numpy_biased_cka(numpy_rbf(as_numpy(x)), numpy_rbf(as_numpy(y)))
    assert rbf_cka(x, y) == pytest.approx(expected, abs=1e-9)


def test_minibatch_cka_equals_the_formula() -> None:
    """Three batches of 8: averages of unbiased estimates, then the ratio."""
    x, y = features(24)
    batches = list(zip(x.split(8), y.split(8), strict=True))
    grams = [tuple(a @ a.T for a in map(as_numpy, batch)) for batch in batches]
    kl, kk, ll = (
        np.mean([numpy_unbiased_hsic(pair[i], pair[j]) for pair in grams]) for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert minibatch_cka(batches) == pytest.approx(kl / (kk * ll) ** 0.5, abs=1e-9)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_unbiased_value_follows_from_the_blocks_of_every_similarity(name: str) -> None:
    """U-centring takes the same from a centred Gram matrix as from the one it was made of."""
    x, y = features()
    grams = [numpy_rbf(a) if name == "rbf" else a @ a.T for a in map(as_numpy, (x, y))]
    kl, kk, ll = (numpy_unbiased_hsic(grams[i], grams[j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    blocks = []
    for side in (x, y):
        kept = summary_of(name)()
        kept.update(side)
        blocks.append(kept.blocks())
    assert unbiased_alignment(*blocks) == pytest.approx(kl / (kk * ll) ** 0.5, abs=1e-9)
    assert (abs(alignment(*blocks) - unbiased_alignment(*blocks)) > 0.02) == (name != "minibatch")


def test_the_biased_estimate_of_independent_representations_falls_with_their_number() -> None:
    """What stands in docs/invariance.md: only equal numbers of examples are to be compared."""
    generator = torch.Generator().manual_seed(4)
    found = [
        linear_cka(*(torch.randn(examples, 200, generator=generator) for _ in range(2))) for examples in (9, 25, 100)
    ]
    assert found[0] > found[1] + 0.02 > found[2] + 0.2


def test_a_short_last_batch_counts_by_its_examples() -> None:
    x, y = features(20)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    grams = [(len(batch[0]), *(a @ a.T for a in map(as_numpy, batch))) for batch in batches]
    kl, kk, ll = (
        sum(pair[0] * numpy_unbiased_hsic(pair[i], pair[j]) for pair in grams) for i, j in ((1, 2), (1, 1), (2, 2))
    )
    assert minibatch_cka(batches) == pytest.approx(kl / (kk * ll) ** 0.5, abs=1e-9)


def test_the_unbiased_estimate_of_independent_representations_is_near_zero() -> None:
    """The biased one is not, with more features than examples."""
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(16, 64, generator=generator), torch.randn(16, 64, generator=generator)) for _ in range(50)]
    assert abs(minibatch_cka(batches)) < 0.05
    assert np.mean([linear_cka(x, y) for x, y in batches]) > 0.5


@pytest.mark.parametrize("name", ["linear", "rbf"])
def test_all_batches_count_and_their_size_does_not_matter(name: str) -> None:
    """The authors' linear CKA of several batches is that of the last."""
    x, y = features()
    values = []
    for size in (1, 5, 23):
        cka = CKA(SIMILARITIES[name])
        for batch in zip(x.split(size), y.split(size), strict=True):
            cka.update(*batch)
        values.append(cka.value())
    assert values == pytest.approx([values[-1]] * 3, abs=1e-12)


@pytest.mark.parametrize("measure", [linear_cka, rbf_cka])
def test_rotation_and_scale_change_nothing(measure: object) -> None:
    x, _ = features()
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    assert callable(measure)
    assert measure(x, 3 * x.flatten(1).double() @ rotation) == pytest.approx(1, abs=1e-9)


def test_more_features_than_are_read_at_a_time() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(6, 5000, generator=generator) for _ in range(2))
    a, b = as_numpy(x), as_numpy(y)
    assert linear_cka(x, y) == pytest.approx(numpy_biased_cka(a @ a.T, b @ b.T), abs=1e-9)


def test_a_constant_representation_has_no_similarity() -> None:
    x, _ = features()
    for measure in (linear_cka, rbf_cka):
        assert np.isnan(measure(x, torch.ones(len(x), 3)))


def test_examples_that_do_not_fit_are_refused() -> None:
    x, y = features()
    cka = CKA(SIMILARITIES["linear"])
    with pytest.raises(ValueError, match="nothing was added"):
        cka.value()
    with pytest.raises(ValueError, match="22 examples of one representation and 23"):
        cka.update(x[:-1], y)
    with pytest.raises(ValueError, match="has 3 examples: the unbiased estimator needs at least 4"):
        minibatch_cka([(x[:3], y[:3])])


def test_an_unknown_similarity_shows_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no similarity 'minibach'. Did you mean 'minibatch'\?"):
        summary_of("minibach")
