"""What the matrices of shared invariances tell in numbers: by layer, as JSON and as a table, and beside the usage.

Shapes: L layers.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive_ft.analysis.invariance import Matrices
from adaptive_ft.analysis.rank_correlation import rank_correlation
from adaptive_ft.analysis.retention import centre_of_mass, flow, forgetting, retention, transfer
from adaptive_ft.errors import UserError

FINE_TUNED, PRETRAINED, CONTROL, RANDOM = "fine-tuned", "pretrained", "control", "random"
"""The roles that models play; all but the pretrained one are judges only, unless both ways are measured."""
FAR = 0.2
"""A median residual above this, a fifth of what was sought, is told (docs/other_models.md: .07 to .09)."""


def summary(matrices: Matrices, tuned: Mapping[str, float], back: Matrices | None = None) -> dict[str, Any]:
    """The numbers by layer, what they say, and the rank correlation of forgetting and usage; null for no number.

    `back`: the matrices of inversions on the fine-tuned model, where they were measured.
    """
    blocks = len(matrices.layers) - 1  # what comes after the last is none
    fine_tuned = matrices.stir[FINE_TUNED]
    if np.isnan(fine_tuned).any():
        raise UserError("A layer of the fine-tuned model gives the same for all examples: they cannot be told apart.")
    found = flow(fine_tuned, blocks)
    against = transfer(fine_tuned, matrices.stir.get(CONTROL, matrices.stir[RANDOM]))
    return {
        "layers": list(matrices.layers),
        "retention": plain(retention(fine_tuned)),
        "forgetting": plain(forgetting(fine_tuned)),
        "within_pretrained": plain(retention(matrices.stir[PRETRAINED])),
        "control": CONTROL if CONTROL in matrices.stir else RANDOM,
        "control_retention": plain(against.control),
        "unsearched": plain(matrices.unsearched.stir[FINE_TUNED]),
        "unbiased": _unbiased(matrices),
        "transferred": plain(against.transferred),
        "stir": {
            "m1m2": plain(retention(fine_tuned)),
            "m2m1": None if back is None else plain(retention(back.stir[PRETRAINED])),
            "rsm": plain(retention(matrices.rsm[FINE_TUNED])),
        },
        "strongest_layer": found.strongest.tolist(),
        "shift": found.shift.tolist(),
        "centre_of_mass": plain(centre_of_mass(fine_tuned, matrices.stir[RANDOM], blocks)),
        "centre_of_mass_within_pretrained": plain(
            centre_of_mass(matrices.stir[PRETRAINED], matrices.stir[RANDOM], blocks)
        ),
        "median_residual": plain(np.median(matrices.residuals, axis=1)),
        "median_starting_residual": plain(np.median(matrices.unsearched.residuals, axis=1)),
        "tuned_share": dict(tuned),
        "usage_against_forgetting": usage_against_forgetting(matrices, tuned),
    }


def _unbiased(matrices: Matrices) -> dict[str, list[float | None]]:
    """The same diagonals with the estimator that has no floor, and what it gives without a search."""
    names = {"retention": FINE_TUNED, "within_pretrained": PRETRAINED}
    names["control_retention"] = CONTROL if CONTROL in matrices.stir else RANDOM
    found = {told: plain(retention(matrices.unbiased[judge])) for told, judge in names.items()}
    return {**found, "unsearched": plain(matrices.unsearched.unbiased[FINE_TUNED])}


def compared_told(compared: Mapping[str, Any]) -> str:
    """What was compared, in one line: names of the models (with policy and checkpoint of a run), images, device."""
    roles = [role for role in (FINE_TUNED, PRETRAINED, CONTROL) if role in compared]
    models = [f"{role} {_model_told(compared[role])}" for role in roles]
    return " · ".join((*models, f"{compared['images']} of {compared['shards']}", compared["device"]))


def _model_told(model: Mapping[str, Any]) -> str:
    if "policy" not in model:
        return str(model["name"])
    return f"{model['name']} (policy {model['policy']}, {model['checkpoint']})"


def usage_against_forgetting(matrices: Matrices, tuned: Mapping[str, float]) -> dict[str, Any] | None:
    """Do policies tune where invariances are forgotten? Over the layers that have gates; None where it is not known."""
    gated = [number for number, layer in enumerate(matrices.layers) if layer in tuned]
    shares = np.array([tuned[matrices.layers[number]] for number in gated])
    forgotten = forgetting(matrices.stir[FINE_TUNED])[gated]
    found = rank_correlation(shares, forgotten) if gated else None
    return None if found is None else asdict(found)


def correlation_told(found: Mapping[str, Any] | None) -> str:
    """The rank correlation in one line."""
    if found is None:
        return "no rank correlation of tuned share and forgetting: it takes four layers whose shares differ"
    few = found["low"] is None
    sure = "too few for an interval" if few else f"95 % {found['low']:+.2f} to {found['high']:+.2f}"
    return (
        f"rank correlation of tuned share and forgetting over {found['layers']} layers: {found['rho']:+.2f}"
        f" ({sure}, p {found['p']:.2g})"
    )


def table(found: Mapping[str, Any], matrices: Matrices, tuned: Mapping[str, float]) -> list[str]:
    """One line per layer."""
    back = found["stir"]["m2m1"]
    named = f"{'retained':>9} {'within':>7} {found['control']:>8} {'unsearched':>10}"
    named += f" {'strongest':>10} {'residual':>9} {'tuned':>6}"
    named += "" if back is None else f" {'back':>6}"
    rows = [f"{'layer':<10} {named}"]
    for number, layer in enumerate(matrices.layers):
        share = f"{100 * tuned[layer]:.0f} %" if layer in tuned else "–"
        strongest = found["strongest_layer"][number] if number < len(found["strongest_layer"]) else "–"
        columns = [
            found[name][number] for name in ("retention", "within_pretrained", "control_retention", "unsearched")
        ]
        kept, within, control, start = map(_digits, columns)
        residual = found["median_residual"][number]
        line = f"{layer:<10} {kept:>9} {within:>7} {control:>8} {start:>10} {strongest:>10} {residual:>9.3f} {share:>6}"
        rows.append(line if back is None else f"{line} {_digits(back[number]):>6}")
    return rows


def far_told(found: Mapping[str, Any]) -> list[str]:
    """A line that names the layers whose searches ended far from what they sought; none where all came near."""
    rows = zip(found["layers"], found["median_residual"], strict=True)
    far = [f"{layer} {residual:.2f}" for layer, residual in rows if residual is not None and residual > FAR]
    if not far:
        return []
    return [
        f"little was found for {', '.join(far)} (median residual above {FAR}): these rows say little; give more"
        " --iterations, another --step or --optimizer adam"
    ]


def plain(values: NDArray[Any]) -> list[float | None]:
    """Numbers for JSON, which knows neither NaN nor infinity."""
    return [float(value) if np.isfinite(value) else None for value in values]


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
