"""How alike two representations of the same examples are: centred kernel alignment (CKA), batch by batch.

CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K and L the Gram matrices of X and Y: 1 for representations
that are equal up to rotation and scale, 0 for independent ones (Kornblith et al., ICML 2019). So it is with many
examples: the biased estimator has a floor that falls with their number and stands far above 0 where features outnumber
them, since all pairs of examples are then about equally far apart. The unbiased one has none. All sums are float64,
whatever type the representations have. A representation whose examples are all equal has no CKA: NaN.

Shapes: N examples, B examples of a batch, X and Y features.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from adaptive_ft.errors import UserError, nearest

Kernel = Callable[[Tensor], Tensor]
"""Features [N, X] -> Gram matrix float64 [N, N]."""
Blocks = Sequence[Tensor]
"""Centred Gram matrices, float64 [n, n] each: one of all examples, or one per batch."""

SMALLEST_BATCH = 4  # the unbiased estimator divides by n - 3
_COLUMNS = 4096  # features that are turned into float64 at a time


class Summary(Protocol):
    """What is kept of a representation of which batch after batch is read."""

    def update(self, features_B: Tensor) -> None:
        """Add a batch [B, ...], flattened to [B, X]."""

    def blocks(self) -> Blocks:
        """The centred Gram matrices of all that was added; two summaries of the same batches go into `alignment`."""

    @property
    def kept_bytes(self) -> int:
        """What is held until `blocks` is asked for."""


class WholeGram:
    """One Gram matrix of all examples, for the biased estimator: HSIC = <HKH, HLH> / (n - 1)^2, H = 1 - 11'/n.

    The features of all batches are kept until then, where and in the type they came.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._features: list[Tensor] = []

    def update(self, features_B: Tensor) -> None:
        """Keep a batch."""
        self._features.append(features_B.detach().flatten(1))

    @property
    def kept_bytes(self) -> int:
        """Those of all features so far."""
        return _bytes(self._features)

    def blocks(self) -> Blocks:
        """One matrix; the constant (n - 1)^2 cancels in CKA and is left out."""
        if not self._features:
            raise ValueError("nothing was added yet: a similarity needs examples")
        gram_NN = self._kernel(torch.cat(self._features))
        means_N = gram_NN.mean(0)
        return [gram_NN - means_N - means_N[:, None] + means_N.mean()]


class BatchGrams:
    """One Gram matrix per batch, for the unbiased estimator; no features are kept.

    HSIC = <K~, L~> / (n (n - 3)), K~ the U-centred Gram matrix (Song et al., JMLR 2012; Székely and Rizzo, 2014).
    Batches are averaged before the division (Nguyen et al., ICLR 2021), each by its number of examples, so that a
    short last batch counts for what it is; batches of one size are averaged plainly.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._blocks: list[Tensor] = []

    def update(self, features_B: Tensor) -> None:
        """Add a batch of at least four examples; raises ValueError for fewer."""
        n = len(features_B)
        if n < SMALLEST_BATCH:
            raise ValueError(f"a batch has {n} examples: the unbiased estimator needs at least {SMALLEST_BATCH}")
        # The examples' weight n and the estimator's 1 / (n (n - 3)), half of it to either side of the product.
        self._blocks.append(u_centred(self._kernel(features_B.detach().flatten(1))) / (n - 3) ** 0.5)

    @property
    def kept_bytes(self) -> int:
        """Those of the matrices so far."""
        return _bytes(self._blocks)

    def blocks(self) -> Blocks:
        """One matrix per batch."""
        if not self._blocks:
            raise ValueError("nothing was added yet: a similarity needs examples")
        return self._blocks


class CKA:
    """The alignment of two representations that come in batches; `start` makes the summary of each."""

    def __init__(self, start: Callable[[], Summary]) -> None:
        self._summaries = (start(), start())

    def update(self, x_B: Tensor, y_B: Tensor) -> None:
        """Add a batch of both; raises ValueError for different numbers of examples."""
        for summary, side in zip(self._summaries, _same_examples(x_B, y_B), strict=True):
            summary.update(side)

    def value(self) -> float:
        """The CKA of all that was added."""
        x, y = self._summaries
        return alignment(x.blocks(), y.blocks())


def linear_cka(x_N: Tensor, y_N: Tensor) -> float:
    """Linear CKA of [N, ...] and [N, ...], biased estimator: ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred features."""
    return _at_once("linear", [(x_N, y_N)])


def rbf_cka(x_N: Tensor, y_N: Tensor) -> float:
    """CKA with a Gaussian kernel each (`rbf_gram`), biased estimator."""
    return _at_once("rbf", [(x_N, y_N)])


def minibatch_cka(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Linear CKA of batches ([B, ...], [B, ...]), unbiased estimator (`BatchGrams`); may lie below 0."""
    return _at_once("minibatch", batches)


def linear_gram(features_NX: Tensor) -> Tensor:
    """<x_i - m, x_j - m> with m the mean example: float64 [N, N]."""
    gram_NN = features_NX.new_zeros(len(features_NX), len(features_NX), dtype=torch.float64)
    for columns in features_NX.split(_COLUMNS, dim=1):
        centred = columns.double()
        centred = centred - centred.mean(0)
        gram_NN.addmm_(centred, centred.T)
    return gram_NN


def rbf_gram(features_NX: Tensor) -> Tensor:
    """exp(-d^2 / (2 s^2)), d the distance of two examples, s^2 the median of the d^2 that are not 0: float64 [N, N]."""
    gram_NN = linear_gram(features_NX)
    squares_N = gram_NN.diagonal()
    squared_NN = (squares_N + squares_N[:, None] - 2 * gram_NN).clamp(min=0).fill_diagonal_(0)
    above = squared_NN[torch.triu(torch.ones_like(squared_NN, dtype=torch.bool), 1)].cpu().numpy()
    median = float(np.median(above[above > 0])) if (above > 0).any() else 1.0
    return torch.exp(squared_NN / (-2 * median))


def u_centred(gram_NN: Tensor) -> Tensor:
    """k_ij - (k_i. + k_.j) / (n - 2) + k_.. / ((n - 1)(n - 2)) off the diagonal, whose entries count nowhere: 0."""
    n = len(gram_NN)
    gram_NN = gram_NN.clone().fill_diagonal_(0)
    sums_N = gram_NN.sum(0)
    centred_NN = gram_NN - (sums_N + sums_N[:, None]) / (n - 2) + sums_N.sum() / ((n - 1) * (n - 2))
    return centred_NN.fill_diagonal_(0)


def alignment(x: Blocks, y: Blocks) -> float:
    """sum_b <X_b, Y_b> / sqrt(sum_b <X_b, X_b> sum_b <Y_b, Y_b>) over centred Gram matrices of the same examples.

    Raises ValueError when these are not of the same examples.
    """
    if [len(block) for block in x] != [len(block) for block in y]:
        raise ValueError(f"blocks of {[len(block) for block in x]} and {[len(block) for block in y]} examples")
    xy, xx, yy = (_inner(*sides) for sides in ((x, y), (x, x), (y, y)))
    return _ratio(xy, (xx * yy) ** 0.5)


def unbiased_alignment(x: Blocks, y: Blocks) -> float:
    """The same with the unbiased estimator, from blocks of either: U-centring takes the same from a centred matrix as
    from the one it was made of. NaN for blocks of fewer than four examples; may lie below 0.
    """
    return alignment([u_centred(block) for block in x], [u_centred(block) for block in y])


SIMILARITIES: Mapping[str, Callable[[], Summary]] = {
    "linear": lambda: WholeGram(linear_gram),
    "rbf": lambda: WholeGram(rbf_gram),
    "minibatch": lambda: BatchGrams(linear_gram),
}
"""The ways to measure, by name: each makes the summary of one representation."""


def summary_of(name: str) -> Callable[[], Summary]:
    """What makes summaries for the similarity `name`; raises UserError for an unknown one."""
    if name not in SIMILARITIES:
        known = ", ".join(SIMILARITIES)
        raise UserError(f"There is no similarity '{name}'.{nearest(name, SIMILARITIES)} Known: {known}.")
    return SIMILARITIES[name]


def _at_once(name: str, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    cka = CKA(SIMILARITIES[name])
    for x_B, y_B in batches:
        cka.update(x_B, y_B)
    return cka.value()


def _same_examples(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) != len(y):
        raise ValueError(f"{len(x)} examples of one representation and {len(y)} of the other")
    return x, y


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _inner(x: Blocks, y: Blocks) -> float:
    return sum((one * other).sum().item() for one, other in zip(x, y, strict=True))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
