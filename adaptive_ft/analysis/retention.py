"""What the matrix of shared invariances says about fine-tuning: retained, forgotten, transferred, and moved where.

A[i, j] = STIR(F_j | P_i): how far layer j of the fine-tuned model F cannot tell apart what layer i of the pretrained
model P cannot. Retention and forgetting are the paper's (Merlin et al., CoLLAs 2023); transfer, flow and centre of mass
are this project's reading of what it shows and tells in words. The raw matrices are kept beside them.
Shapes: L layers of the pretrained model (rows) and as many of the judge (columns).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Transfer:
    """How much of layer i's invariances F has beyond what a control has that did not start from P.

    `fine_tuned` [L] is STIR(F_i | P_i), `control` [L] STIR(C_i | P_i) with C trained from scratch or random.
    """

    fine_tuned: Floats
    control: Floats

    @property
    def transferred(self) -> Floats:
        """STIR(F_i | P_i) - STIR(C_i | P_i)."""
        return self.fine_tuned - self.control


@dataclass(frozen=True)
class Flow:
    """Where the invariances of layer i are found most: j* [L], the first of equals, and its shift j* - i.

    A negative shift says that they were compressed towards shallower layers.
    """

    strongest: NDArray[np.intp]

    @property
    def shift(self) -> NDArray[np.intp]:
        """j*(i) - i."""
        return self.strongest - np.arange(len(self.strongest))


def retention(stir_LL: Floats) -> Floats:
    """STIR(F_i | P_i) of every layer: [L]; raises ValueError for a matrix that is not square."""
    return np.diagonal(_square(stir_LL)).copy()


def forgetting(stir_LL: Floats) -> Floats:
    """1 - retention: [L]."""
    return 1 - retention(stir_LL)


def transfer(stir_LL: Floats, control_LL: Floats) -> Transfer:
    """Both terms of the transfer, from the matrices of the fine-tuned model and of the control."""
    return Transfer(retention(stir_LL), retention(control_LL))


def flow(stir_LL: Floats, blocks: int | None = None) -> Flow:
    """Where each row has its largest entry, among the first `blocks` layers (all by default): the final norm is none.

    Raises ValueError for a matrix that is not square or has an entry among them that is no number.
    """
    part = _square(stir_LL)[:blocks, :blocks]
    if np.isnan(part).any():
        raise ValueError("the matrix has entries that are no numbers: a layer gives the same for all images")
    return Flow(part.argmax(axis=1))


def centre_of_mass(stir_LL: Floats, random_LL: Floats, blocks: int | None = None) -> Floats:
    """sum_j j w_ij / sum_j w_ij with w_ij = max(0, STIR(F_j | P_i) - STIR(R_j | P_i)), R at random: [L].

    Sturdier than the flow where a row is flat; NaN where no layer has more than a random one.
    """
    weights = np.maximum(0, _square(stir_LL)[:blocks, :blocks] - _square(random_LL)[:blocks, :blocks])
    sums = weights.sum(axis=1)
    with np.errstate(invalid="ignore"):
        centres: Floats = weights @ np.arange(weights.shape[1]) / np.where(sums > 0, sums, np.nan)
    return centres


def _square(matrix_LL: Floats) -> Floats:
    if matrix_LL.ndim != 2 or matrix_LL.shape[0] != matrix_LL.shape[1]:
        raise ValueError(f"a matrix {matrix_LL.shape} has no diagonal: both models need the same number of layers")
    return matrix_LL
