"""Device code shared by the kernels that walk over rows grouped by gate.

Rows of a component come in the order of its samples, frozen ones first; the S rows of a sample stay together.
A tile never mixes the two groups, so each program has one weight. As two groups can only add one tile, the
grid is `cdiv(B * S, ROWS) + 1` without knowing the counts on the host; the last program may have no rows.
"""

import triton
import triton.language as tl


@triton.jit
def group_of_row_tile(num_frozen, index, batch, rows_per_sample, ROWS: tl.constexpr):
    """(tuned, start, stop): the group a row tile belongs to and its share of the grouped rows; maybe empty."""
    frozen_rows = num_frozen * rows_per_sample
    frozen_tiles = tl.cdiv(frozen_rows, ROWS)
    tuned = index >= frozen_tiles
    start = tl.where(tuned, frozen_rows + (index - frozen_tiles) * ROWS, index * ROWS)
    stop = tl.where(tuned, batch * rows_per_sample, frozen_rows)
    return tuned, start, stop


@triton.jit
def row_addresses(order_B, grouped_rows, rows_per_sample):
    """Rows in memory (int64) of rows in grouped order; all of them must exist (clamp, then mask)."""
    sample = tl.load(order_B + grouped_rows // rows_per_sample)
    return sample.to(tl.int64) * rows_per_sample + grouped_rows % rows_per_sample


@triton.jit
def mask_of(flag):
    """A scalar flag as a mask of shape [1, 1]; a GPU takes the scalar too, the interpreter does not."""
    return tl.full((1, 1), 0, tl.int32) + flag.to(tl.int32) > 0
