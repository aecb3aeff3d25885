"""Shared invariances (STIR): how far one model cannot tell apart what another cannot (Nanda et al., ICML 2022).

STIR(m2 | m1) = CKA(m2(X), m2(X')), X' inversions of X on m1: m1(X') = m1(X) as nearly as the search gets. The model
after the bar is the one that is inverted, the one before it judges. A matrix of all layers of P against all layers of a
judge costs one inversion per layer of P, since X' depends on nothing else; every judge reads all its layers in one
forward pass of X'. So P itself (the baseline within the model), the fine-tuned model, and controls are judges of the
same inversions.

Shapes: N images, B images of a batch, L layers; X features of a layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from adaptive_ft.analysis.measured_images import Images, MeasureConfig
from adaptive_ft.analysis.measurement_folder import MeasurementFolder, Row
from adaptive_ft.analysis.representations import Reader, tensor_bytes
from adaptive_ft.analysis.similarity import Blocks, alignment
from adaptive_ft.errors import UserError

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""(inverted batches so far, all of them); a layer of a batch counts as one."""


@dataclass(frozen=True)
class Stir:
    """STIR(m1 | m2): m1 judges inversions on m2; STIR(m2 | m1); and the plain similarity CKA(m1(X), m2(X))."""

    m1m2: float
    m2m1: float
    rsm: float


@dataclass(frozen=True)
class Matrices:
    """STIR(J_j | P_i) [L, L] and CKA(P_i(X), J_j(X)) [L, L] of every judge J, and how near each search came.

    `residuals` [L, N]: ||P_i(x') - P_i(x)|| / ||P_i(x)||; where it is large nothing was inverted, and STIR means
    little.
    """

    layers: tuple[str, ...]
    judge_layers: Mapping[str, tuple[str, ...]]
    stir: Mapping[str, Floats]
    rsm: Mapping[str, Floats]
    residuals: Floats


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
) -> Matrices:
    """STIR(J_j | P_i) of all layers of all judges, with one inversion per layer of `pretrained`.

    With a `folder` every finished row is kept in it, and rows that are there are not computed again; the matrices are
    written there as npz and CSV.

    Raises:
        UserError: a judge of another depth, images of another size than a model takes, or a folder that holds another
            measurement.
    """
    images = Images(inputs_N, config, starts_N)
    _check_models(pretrained, judges, inputs_N)
    place = None if folder is None else MeasurementFolder(folder)
    if place is not None:
        place.open(_facts(pretrained, judges, images))
    rows: dict[int, Row] = {}
    for number in range(len(pretrained.layers)):
        held = place.row(number) if place is not None else None
        if held is not None:
            rows[number] = held
    for number, row in _missing_rows(pretrained, judges, images, rows, progress):
        rows[number] = row
        if place is not None:
            place.write_row(number, row)
    matrices = _matrices(pretrained, judges, [rows[number] for number in range(len(pretrained.layers))])
    if place is not None:
        _write(matrices, place)
    return matrices


def _missing_rows(
    pretrained: Reader, judges: Mapping[str, Reader], images: Images, held: Mapping[int, Row], progress: Progress
) -> Iterator[tuple[int, Row]]:
    """The rows that are not there yet, as they are finished."""
    # A group is done as a whole also where a kill left a part of it: the same copies give the same numbers.
    groups = list(_groups(range(len(pretrained.layers)), images.config.layers_at_once))
    missing = [group for group in groups if any(number not in held for number in group)]
    total = len(pretrained.layers) * images.count
    done = total - sum(map(len, missing)) * images.count
    progress(done, total)
    if not missing:
        return

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    of_pretrained = images.blocks(pretrained, images.inputs_N, pretrained.layers)
    originals = {name: images.blocks(judge, images.inputs_N, judge.layers) for name, judge in judges.items()}
    for group in missing:
        layers = [pretrained.layers[number] for number in group]
        found = images.inverted(pretrained, layers, tick)
        for number, layer in zip(group, layers, strict=True):
            inverted = found.pop(layer)
            row = {"residuals": inverted.loss_B.double().cpu().numpy()}
            for name, judge in judges.items():
                seen = images.blocks(judge, inverted.inputs_B, judge.layers)
                row[f"stir-{name}"] = _aligned(originals[name], seen)
                row[f"rsm-{name}"] = _aligned(originals[name], dict.fromkeys(judge.layers, of_pretrained[layer]))
            yield number, row


def _aligned(one: Mapping[str, Blocks], other: Mapping[str, Blocks]) -> Floats:
    """The similarity of every layer of both: [L]."""
    return np.array([alignment(one[layer], other[layer]) for layer in one])


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
    }


def _hash(values: Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor_bytes(values))


def _matrices(pretrained: Reader, judges: Mapping[str, Reader], rows: Sequence[Row]) -> Matrices:
    def stacked(name: str) -> Floats:
        return np.stack([row[name] for row in rows])

    return Matrices(
        layers=pretrained.layers,
        judge_layers={name: judge.layers for name, judge in judges.items()},
        stir={name: stacked(f"stir-{name}") for name in judges},
        rsm={name: stacked(f"rsm-{name}") for name in judges},
        residuals=stacked("residuals"),
    )


def _write(matrices: Matrices, place: MeasurementFolder) -> None:
    """Matrices as npz and as tables."""
    arrays: dict[str, NDArray[Any]] = {"layers": np.array(matrices.layers), "residuals": matrices.residuals}
    for kind, by_judge in (("stir", matrices.stir), ("rsm", matrices.rsm)):
        for name, matrix_LL in by_judge.items():
            arrays[f"{kind}-{name}"] = matrix_LL
            rows = dict(zip(matrices.layers, matrix_LL, strict=True))
            place.write_table(f"{kind}-{name}", matrices.judge_layers[name], rows)
    numbers = tuple(map(str, range(matrices.residuals.shape[1])))
    place.write_table("residuals", numbers, dict(zip(matrices.layers, matrices.residuals, strict=True)))
    place.write_arrays(arrays)
