"""Shared invariances (STIR): how far one model cannot tell apart what another cannot (Nanda et al., ICML 2022).

STIR(m2 | m1) = CKA(m2(X), m2(X')), X' inversions of X on m1: m1(X') = m1(X) as nearly as the search gets. The model
after the bar is the one that is inverted, the one before it judges. A matrix of all layers of P against all layers of a
judge costs one inversion per layer of P, since X' depends on nothing else; every judge reads all its layers in one
forward pass of X'. So P itself (the baseline within the model), the fine-tuned model, and controls are judges of the
same inversions. What each of them makes of the starts of the searches is kept beside: with few images the biased CKA
of anything stands far above 0, and only what lies above that was found by searching.

Shapes: N images, B images of a batch, L layers; X features of a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from adaptive_ft.analysis.measured_images import Images, MeasureConfig
from adaptive_ft.analysis.measurement_folder import MeasurementFolder, Row
from adaptive_ft.analysis.repeatable import device_name, repeatable
from adaptive_ft.analysis.representations import Reader, tensor_bytes
from adaptive_ft.analysis.similarity import Blocks, alignment, unbiased_alignment
from adaptive_ft.errors import UserError

Floats = NDArray[np.float64]
_UNSEARCHED = "unsearched"
Progress = Callable[[int, int], None]
"""(inverted batches so far, all of them); a layer of a batch counts as one."""


@dataclass(frozen=True)
class Stir:
    """STIR(m1 | m2): m1 judges inversions on m2; STIR(m2 | m1); and the plain similarity CKA(m1(X), m2(X))."""

    m1m2: float
    m2m1: float
    rsm: float


@dataclass(frozen=True)
class Unsearched:
    """What there is without any search: X' the starts.

    `stir`, `unbiased`: CKA(J_j(X), J_j(X')) of every judge J, both estimators, [L] each: the floor of column j.
    `residuals` [L, N]: how far the starts are from the target at every layer of P.
    """

    stir: Mapping[str, Floats]
    unbiased: Mapping[str, Floats]
    residuals: Floats


@dataclass(frozen=True)
class Matrices:
    """STIR(J_j | P_i) [L, L] and CKA(P_i(X), J_j(X)) [L, L] of every judge J, and how near each search came.

    `unbiased` [L, L]: STIR with the unbiased estimator of CKA, which has no floor; NaN with fewer than four images in a
    batch. `residuals` [L, N]: ||P_i(x') - P_i(x)|| / ||P_i(x)||; where it is large nothing was inverted, and STIR means
    little.
    """

    layers: tuple[str, ...]
    judge_layers: Mapping[str, tuple[str, ...]]
    stir: Mapping[str, Floats]
    rsm: Mapping[str, Floats]
    unbiased: Mapping[str, Floats]
    residuals: Floats
    unsearched: Unsearched


def stir(
    m1: Reader,
    m2: Reader,
    layers: tuple[str, str],
    inputs_N: Tensor,
    config: MeasureConfig,
    starts_N: Tensor | None = None,
) -> Stir:
    """Shared invariances of one layer of each model, both ways; two inversions.

    Raises UserError for a layer that does not exist or images of another size than a model takes.
    """
    images = Images(inputs_N, config, starts_N)
    for reader, layer in zip((m1, m2), layers, strict=True):
        reader.check_layers([layer])
        reader.check_inputs(inputs_N)
    with repeatable():
        (of_1, of_2) = (
            images.blocks(reader, inputs_N, [layer])[layer] for reader, layer in zip((m1, m2), layers, strict=True)
        )
        return Stir(
            m1m2=alignment(of_1, _seen_by((m1, layers[0]), (m2, layers[1]), images)),
            m2m1=alignment(of_2, _seen_by((m2, layers[1]), (m1, layers[0]), images)),
            rsm=alignment(of_1, of_2),
        )


def _seen_by(judge: tuple[Reader, str], inverted: tuple[Reader, str], images: Images) -> Blocks:
    """What a judge's layer makes of the inversions on another model's layer."""
    (reader, layer), (model, model_layer) = judge, inverted
    found = images.inverted(model, [model_layer])[model_layer]
    return images.blocks(reader, found.inputs_B, [layer])[layer]


def stir_matrices(
    pretrained: Reader,
    judges: Mapping[str, Reader],
    inputs_N: Tensor,
    config: MeasureConfig,
    folder: Path | None = None,
    progress: Progress = lambda done, total: None,
    starts_N: Tensor | None = None,
    compared: Mapping[str, Any] | None = None,
) -> Matrices:
    """STIR(J_j | P_i) of all layers of all judges, with one inversion per layer of `pretrained`.

    With a `folder` every finished row is kept in it, and rows that are there are not computed again; the matrices are
    written there as npz and CSV. `compared` (names of the models, the images' address, whatever a reader should know)
    is written beside what the folder is recognised by.

    Raises:
        UserError: a judge of another depth, images of another size than a model takes, or a folder that holds another
            measurement.
    """
    images = Images(inputs_N, config, starts_N)
    _check_models(pretrained, judges, inputs_N)
    place = None if folder is None else MeasurementFolder(folder)
    if place is not None:
        place.open(_facts(pretrained, judges, images), compared or {})
    measuring = _Measuring(pretrained, judges, images)
    names = {_row_name(number): number for number in range(len(pretrained.layers))}
    held = {} if place is None else {name: place.row(name) for name in (_UNSEARCHED, *names)}
    rows: dict[str, Row] = {name: row for name, row in held.items() if row is not None}
    with repeatable():
        for name, row in measuring.missing(rows, progress):
            rows[name] = row
            if place is not None:
                place.write_row(name, row)
    matrices = _matrices(pretrained, judges, [rows[name] for name in names], rows[_UNSEARCHED])
    if place is not None:
        _write(matrices, place)
    return matrices


class _Measuring:
    """The rows of a measurement, and what the models make of the images: read once, and only where a row is missing."""

    def __init__(self, pretrained: Reader, judges: Mapping[str, Reader], images: Images) -> None:
        self._pretrained, self._judges, self._images = pretrained, judges, images

    @cached_property
    def _of_pretrained(self) -> Mapping[str, Blocks]:
        return self._images.blocks(self._pretrained, self._images.inputs_N, self._pretrained.layers)

    @cached_property
    def _originals(self) -> Mapping[str, Mapping[str, Blocks]]:
        inputs_N = self._images.inputs_N
        return {name: self._images.blocks(judge, inputs_N, judge.layers) for name, judge in self._judges.items()}

    def missing(self, held: Mapping[str, Row], progress: Progress) -> Iterator[tuple[str, Row]]:
        """The rows that are not there yet by name, as they are finished."""
        if _UNSEARCHED not in held:
            yield _UNSEARCHED, self._unsearched()
        # A group is done as a whole also where a kill left a part of it: the same copies give the same numbers.
        groups = list(_groups(range(len(self._pretrained.layers)), self._images.config.layers_at_once))
        missing = [group for group in groups if any(_row_name(number) not in held for number in group)]
        total = len(self._pretrained.layers) * self._images.count
        done = total - sum(map(len, missing)) * self._images.count
        progress(done, total)

        def tick() -> None:
            nonlocal done
            done += 1
            progress(done, total)

        for group in missing:
            layers = [self._pretrained.layers[number] for number in group]
            found = self._images.inverted(self._pretrained, layers, tick)
            for number, layer in zip(group, layers, strict=True):
                inverted = found.pop(layer)
                row = {"residuals": inverted.loss_B.double().cpu().numpy(), **self._judged(inverted.inputs_B)}
                for name, judge in self._judges.items():
                    plain = dict.fromkeys(judge.layers, self._of_pretrained[layer])
                    row[f"rsm-{name}"] = _aligned(self._originals[name], plain)
                yield _row_name(number), row

    def _unsearched(self) -> Row:
        starts_N = self._images.all_starts()
        residuals_LN = self._images.residuals(self._pretrained, starts_N)
        return {"residuals": residuals_LN.double().cpu().numpy(), **self._judged(starts_N)}

    def _judged(self, inverted_N: Tensor) -> dict[str, Floats]:
        """How alike these are to the images, for every layer of every judge: [L] each."""
        found = {}
        for name, judge in self._judges.items():
            seen = self._images.blocks(judge, inverted_N, judge.layers)
            found[f"stir-{name}"] = _aligned(self._originals[name], seen)
            found[f"unbiased-{name}"] = _aligned(self._originals[name], seen, unbiased_alignment)
        return found


def _aligned(
    one: Mapping[str, Blocks], other: Mapping[str, Blocks], measure: Callable[[Blocks, Blocks], float] = alignment
) -> Floats:
    """The similarity of every layer of both: [L]."""
    return np.array([measure(one[layer], other[layer]) for layer in one])


def _row_name(number: int) -> str:
    return f"{number:03d}"


def _groups(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def _check_models(pretrained: Reader, judges: Mapping[str, Reader], inputs_N: Tensor) -> None:
    for reader in (pretrained, *judges.values()):
        reader.check_inputs(inputs_N)
        if len(reader.layers) != len(pretrained.layers):
            raise UserError(
                f"The {pretrained.name} model has {len(pretrained.layers)} layers to compare, the {reader.name} model"
                f" {len(reader.layers)}: every layer is compared with its own successor, so give models of one depth."
            )


def _facts(pretrained: Reader, judges: Mapping[str, Reader], images: Images) -> dict[str, Any]:
    """What makes this measurement another one than others."""
    models = {"pretrained": pretrained, **{f"judge {name}": judge for name, judge in judges.items()}}
    starts = images.starts_N
    return {
        **{role: {"layers": reader.layers, "weights": reader.fingerprint} for role, reader in models.items()},
        "images": {"shape": tuple(images.inputs_N.shape), "hash": _hash(images.inputs_N)},
        "starts": None if starts is None else _hash(starts),
        "settings": asdict(images.config),
        # Other devices and versions round otherwise: their rows are not mixed.
        "device": device_name(images.inputs_N.device),
        "torch": str(torch.__version__),
    }


def _hash(values: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor_bytes(values))


def _matrices(pretrained: Reader, judges: Mapping[str, Reader], rows: Sequence[Row], unsearched: Row) -> Matrices:
    def stacked(name: str) -> Floats:
        return np.stack([row[name] for row in rows])

    return Matrices(
        layers=pretrained.layers,
        judge_layers={name: judge.layers for name, judge in judges.items()},
        stir={name: stacked(f"stir-{name}") for name in judges},
        rsm={name: stacked(f"rsm-{name}") for name in judges},
        unbiased={name: stacked(f"unbiased-{name}") for name in judges},
        residuals=stacked("residuals"),
        unsearched=Unsearched(
            stir={name: unsearched[f"stir-{name}"] for name in judges},
            unbiased={name: unsearched[f"unbiased-{name}"] for name in judges},
            residuals=unsearched["residuals"],
        ),
    )


def _write(matrices: Matrices, place: MeasurementFolder) -> None:
    """Matrices as npz and as tables."""
    arrays: dict[str, NDArray[Any]] = {"layers": np.array(matrices.layers), "residuals": matrices.residuals}
    for kind, by_judge in (("stir", matrices.stir), ("rsm", matrices.rsm), ("unbiased", matrices.unbiased)):
        for name, matrix_LL in by_judge.items():
            arrays[f"{kind}-{name}"] = matrix_LL
            rows = dict(zip(matrices.layers, matrix_LL, strict=True))
            place.write_table(f"{kind}-{name}", matrices.judge_layers[name], rows)
    for name in matrices.stir:
        arrays[f"unsearched-{name}"] = matrices.unsearched.stir[name]
        arrays[f"unsearched-unbiased-{name}"] = matrices.unsearched.unbiased[name]
    arrays["unsearched-residuals"] = matrices.unsearched.residuals
    numbers = tuple(map(str, range(matrices.residuals.shape[1])))
    place.write_table("residuals", numbers, dict(zip(matrices.layers, matrices.residuals, strict=True)))
    place.write_arrays(arrays)
