"""Memory goes round, and never while somebody still looks at it."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from adaptive_ft.data.reading.batch_memory import BatchMemory

FLOAT = np.dtype(np.float32)


def test_a_tensor_is_of_the_shape_and_type_asked_for() -> None:
    memory = BatchMemory(8)
    for dtype in (np.float16, np.float32, np.uint8):
        tensor = memory.empty((3, 4), np.dtype(dtype))
        assert tensor.shape == (3, 4)
        assert tensor.dtype == torch.from_numpy(np.empty(0, dtype)).dtype


def test_memory_nobody_refers_to_is_used_again() -> None:
    memory = BatchMemory(8)
    tensor = memory.empty((8, 8), FLOAT)
    place = tensor.data_ptr()
    del tensor
    assert memory.empty((8, 8), FLOAT).data_ptr() == place


def test_memory_is_not_used_again_while_a_view_or_a_graph_holds_it() -> None:
    memory = BatchMemory(8)
    weight = torch.ones(8, requires_grad=True)
    held = [memory.empty((8, 8), FLOAT)[2:, 0], memory.empty((8, 8), FLOAT).numpy()[0]]
    graph = (memory.empty((8, 8), FLOAT).fill_(3) * weight).sum()
    gc.collect()
    for _ in range(20):
        memory.empty((8, 8), FLOAT).fill_(7)
    for kept in held:
        kept[:] = 1
    assert not (memory.empty((8, 8), FLOAT) == 1).any()
    graph.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [24.0] * 8


def test_threads_never_share_memory() -> None:
    memory = BatchMemory(8)

    def work(number: int) -> bool:
        for _ in range(300):
            mine = memory.empty((64,), FLOAT).fill_(number)
            if not (mine == number).all():
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))


def test_only_a_few_are_kept() -> None:
    """What an unusual moment needed does not stay taken."""
    memory = BatchMemory(8)
    many = [memory.empty((8, 8), FLOAT) for _ in range(50)]
    places = {tensor.data_ptr() for tensor in many}
    del many
    again = [memory.empty((8, 8), FLOAT) for _ in range(8)]
    assert len(again) == len({tensor.data_ptr() for tensor in again} & places)
    assert sum(len(free) for free in memory._free.values()) == 0
