"""How fast a run trains and what holds it up: examples, tokens and products per second, peak memory, communication.

Only training steps count, not what lies between them: evaluations, pictures, checkpoints.
"""

import functools
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_ft.adapt import AdaptiveModel
from adaptive_ft.engine.ranks import Ranks
from adaptive_ft.engine.traffic import TimedTraffic, sent_bytes
from adaptive_ft.layers import LinearLeaf

PRODUCT_SIDES = {"cpu": 512, "cuda": 4096}
"""Side of the square matrices whose product shows what a device can do: 3 ms on one core, 0.3 ms at 500 TFLOP/s."""
REPEATS = 5
HEARD = ("communication_share", "communication_mib")
EVERY, LISTENED = 100, 10
"""Updates 10, 110, 210, ... are listened to: ZeRO-3's first ones find out in which order modules come."""


class ProductCounter:
    """Counts the floating-point operations that a training step of `model` needs in its linear layers.

    FLOPs = sum over layers of 2 rows inputs outputs (1 + [its input has a gradient] + [it trains]), one of a gated
    layer's two weights per row: what the same step of the same model without gates costs. What recomputes activations
    does not count twice; both branches of two_branch gate gradients count. Attention's own products, embeddings and
    norms are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self.flops = 0
        self._counts = False
        for module in model.modules():
            if isinstance(module, nn.Linear | LinearLeaf):
                trains = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
                weight = module.get_parameter("weight")
                num_outputs = getattr(weight, "ds_shape", weight.shape)[0]  # ZeRO-3 leaves an empty tensor between uses
                module.register_forward_pre_hook(functools.partial(self._see, trains=trains, num_outputs=num_outputs))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """The forward pass of one micro-batch."""
        self._counts = True
        try:
            yield
        finally:
            self._counts = False

    def _see(self, _: nn.Module, args: tuple[Any, ...], *, trains: bool, num_outputs: int) -> None:
        if self._counts:
            given: Tensor = args[0]
            self.flops += 2 * (1 + given.requires_grad + trains) * given.numel() * num_outputs


class ThroughputMeter:
    """Times training steps, counts what they do, and listens to the collectives of one update in a hundred.

    `peak_tflops`: the speed of one device on dense products that utilisation is a share of; without it a product is
    timed on the device once.
    """

    def __init__(self, model: AdaptiveModel, ranks: Ranks, peak_tflops: float | None) -> None:
        self._ranks = ranks
        self._patch_size = getattr(model.base.config, "patch_size", None)  # of models that see pictures
        self._dtype = next(model.parameters()).dtype
        self._products = ProductCounter(model)
        self._peak = None if peak_tflops is None else 1e12 * peak_tflops
        self.seconds = self._listened_seconds = 0.0
        """Of the updates since the last window: those that nobody listened to, and the others."""
        self._examples = self._tokens = 0
        self._heard: list[float] = []

    def update(self, number: int) -> AbstractContextManager[None]:
        """Around optimizer update `number`, counted from 1."""
        return self._listening() if self._ranks.world_size > 1 and number % EVERY == LISTENED else self._timing()

    @contextmanager
    def _timing(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """An update that waits for each collective, so that none hides behind computing, and is slower by a Python hook
        at every operation: no part of the speed, and its share of communication is an estimate.
        """
        done = self._examples, self._tokens, self._products.flops
        self.settle()
        began = time.perf_counter()
        with TimedTraffic(self._ranks.device) as traffic:
            yield
        seconds = time.perf_counter() - began + _seconds_to_settle(self._ranks.device)
        self._examples, self._tokens, self._products.flops = done
        self._listened_seconds += seconds
        self._heard = [traffic.seconds / seconds, sent_bytes(traffic.bytes, self._ranks.world_size) / 2**20]

    @contextmanager
    def forward(self, inputs: Mapping[str, Tensor], num_examples: int) -> Iterator[None]:
        """The forward pass of one micro-batch with these inputs, `num_examples` of them real."""
        self._examples += num_examples
        self._tokens += num_tokens(inputs, self._patch_size)
        with self._products.counting():
            yield

    def settle(self) -> None:
        """Wait until the device has done the updates so far; to be called before anything else waits for it."""
        self.seconds += _seconds_to_settle(self._ranks.device)

    @property
    def all_seconds(self) -> float:
        """Of every update since the last window."""
        return self.seconds + self._listened_seconds

    def window(self) -> dict[str, float]:
        """Since the last call, over all ranks (collective).

        examples_per_second, tokens_per_second: of all ranks, over the seconds of the slowest.
        model_flops_utilization: mean over ranks of FLOPs / seconds / the device's speed on dense products. Both without
        the update that was listened to, and left out where there was no other.
        peak_memory_gib: of the rank with the most. Where an update was listened to, communication_share: max over ranks
        of (its seconds in collectives / its seconds), and communication_mib: what a rank sends in it if ranks form a
        ring.
        """
        most = [self.seconds, peak_memory_gib(self._ranks.device), *self._heard]
        if self._peak is None:
            self._peak = product_speed(self._ranks.device, self._dtype)
        utilization = self._products.flops / self._peak / max(self.seconds, 1e-9)
        sums = torch.tensor([self._examples, self._tokens, utilization], dtype=torch.float64)
        examples, tokens, utilization = self._ranks.sum(sums).tolist()
        seconds, peak_gib, *heard = self._ranks.max(torch.tensor(most, dtype=torch.float64)).tolist()
        self._clear()
        values = {"peak_memory_gib": peak_gib}
        if tokens:
            values["examples_per_second"] = examples / seconds
            values["tokens_per_second"] = tokens / seconds
            values["model_flops_utilization"] = utilization / self._ranks.world_size
        return values | dict(zip(HEARD, heard, strict=False))

    def _clear(self) -> None:
        self.seconds = self._listened_seconds = 0.0
        self._examples = self._tokens = self._products.flops = 0
        self._heard = []


def num_tokens(inputs: Mapping[str, Tensor], patch_size: int | None) -> int:
    """Words, regions and patches in a batch of a model's inputs, with the padding that is computed too."""
    words = inputs["input_ids"].numel() if "input_ids" in inputs else 0
    regions = inputs["visual_feats"].shape[:2].numel() if "visual_feats" in inputs else 0
    if patch_size is None or "pixel_values" not in inputs:
        return words + regions
    pictures, _, height, width = inputs["pixel_values"].shape
    return words + regions + pictures * (height // patch_size) * (width // patch_size)


def peak_memory_gib(device: torch.device) -> float:
    """The most memory that this process has had, in GiB: allocated on its GPU since the last call, or on a CPU resident
    since it began.

    The one number with activations in it; what is held without them tells `adaptive-ft inspect --memory`.
    """
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that `device` reaches on a product of square matrices, the best of a few."""
    side = PRODUCT_SIDES.get(device.type, PRODUCT_SIDES["cpu"])
    generator = torch.Generator(device).manual_seed(0)  # numbers like a model's: zeros and ones are multiplied faster
    left = torch.randn(side, side, generator=generator, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(REPEATS):
        _seconds_to_settle(device)
        began = time.perf_counter()
        left @ left
        _seconds_to_settle(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _seconds_to_settle(device: torch.device) -> float:
    """Wait until a device that works behind the program's back has done everything; the seconds that took."""
    began = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
