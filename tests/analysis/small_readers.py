"""Small models as readers, and a count of the passes they make."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from adaptive_ft.analysis.representations import Reader, Tap, class_token, hooked, weights_hash

SHAPE = (3, 4, 4)


def perceptron(seed: int, widths: Sequence[int] = (32, 12)) -> nn.Sequential:
    """Linear and tanh layers over flattened images of `SHAPE`, weights of usual spread."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip((48, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def reader_of(model: nn.Sequential, name: str = "small") -> Reader:
    """The outputs of its tanh layers: block.0, block.1, ..."""
    taps = {f"block.{number}": Tap(module) for number, module in enumerate(model[2::2])}
    return Reader(name, tuple(taps), SHAPE, hooked(lambda inputs, _: model(inputs), taps), weights_hash(model))


def vit_reader(seed: int, blocks: int = 12, name: str = "pretrained") -> Reader:
    """A ViT of random weights: all its blocks, and the class token after the final norm."""
    torch.manual_seed(seed)
    sizes = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=blocks, num_attention_heads=2,
        intermediate_size=32, initializer_range=0.2,
    )  # fmt: skip
    model = ViTModel(sizes, add_pooling_layer=False).eval().requires_grad_(False)
    taps = {f"block.{number}": Tap(layer) for number, layer in enumerate(model.layers)}
    taps["norm"] = Tap(model.layernorm, class_token)
    read = hooked(lambda inputs, _: model(inputs), taps)
    return Reader(name, tuple(taps), (3, 8, 8), read, weights_hash(model))


def images(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 7) -> Tensor:
    """Pixels in [0, 1]."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class Passes:
    """What a counted reader was asked for: forward passes with a gradient per layers, and those without."""

    searching: list[tuple[str, ...]] = field(default_factory=list)
    looking: list[tuple[str, ...]] = field(default_factory=list)


def counted(reader: Reader, stop_after: float = float("inf")) -> tuple[Reader, Passes]:
    """The reader, and the passes it makes; KeyboardInterrupt at the search pass after `stop_after` ones."""
    passes = Passes()
    read: Callable[[Tensor, Tensor, Sequence[str]], Mapping[str, Tensor]] = reader.read

    def counting(inputs_B: Tensor, numbers_B: Tensor, layers: Sequence[str]) -> Mapping[str, Tensor]:
        (passes.searching if inputs_B.requires_grad else passes.looking).append(tuple(layers))
        if len(passes.searching) > stop_after:
            raise KeyboardInterrupt
        return read(inputs_B, numbers_B, layers)

    return replace(reader, read=counting), passes
