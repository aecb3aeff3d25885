"""Reading layers: what a module gives, from one pass that ends where enough was seen."""

import pytest
import torch
from torch import nn

from adaptive_ft.analysis.representations import Tap, class_token, hooked, weights_hash
from adaptive_ft.errors import UserError
from tests.analysis.small_readers import images, perceptron, reader_of, vit_reader

NUMBERS = torch.arange(4)


def test_layers_are_what_the_modules_give() -> None:
    model, x = perceptron(1), images(4)
    found = reader_of(model)(x, NUMBERS, ["block.1", "block.0"])
    assert torch.equal(found["block.0"], model[:3](x))
    assert torch.equal(found["block.1"], model(x))


def test_a_pass_ends_at_the_deepest_layer_that_is_asked_for_and_leaves_no_hook() -> None:
    model, x = perceptron(1), images(4)
    ran: list[int] = []
    model[4].register_forward_hook(lambda *_: ran.append(1))
    reader = reader_of(model)
    reader(x, NUMBERS, ["block.0"])
    assert not ran
    reader(x, NUMBERS, ["block.0", "block.1"])
    assert ran == [1]
    assert len(model[4]._forward_hooks) == 1
    assert not model[2]._forward_hooks


def test_blocks_are_flattened_and_the_class_token_is_one_place() -> None:
    reader = vit_reader(1, blocks=2)
    found = reader(images(4, (3, 8, 8)), NUMBERS, reader.layers)
    assert {layer: tuple(features.shape) for layer, features in found.items()} == {
        "block.0": (4, 5 * 16),
        "block.1": (4, 5 * 16),
        "norm": (4, 16),
    }


def test_outputs_of_several_tensors_give_the_first() -> None:
    class Pair(nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, str]:
            return inputs, "more"

    pair, x = Pair(), torch.rand(2, 3, 4)
    taps = {"all": Tap(pair), "first": Tap(pair, class_token)}
    found = hooked(lambda inputs, _: pair(inputs), taps)(x, NUMBERS[:2], ["all", "first"])
    assert torch.equal(found["all"], x)
    assert torch.equal(found["first"], x[:, 0])


def test_a_layer_that_no_pass_reaches_is_an_error() -> None:
    read = hooked(lambda inputs, _: inputs, {"lost": Tap(nn.Identity())})
    with pytest.raises(ValueError, match="did not run through lost"):
        read(torch.rand(2, 3), NUMBERS[:2], ["lost"])


def test_weights_are_told_apart_by_value() -> None:
    model = perceptron(1)
    before = weights_hash(model)
    assert weights_hash(perceptron(1)) == before
    model[1].bias[0] += 1
    assert weights_hash(model) != before


def test_an_unknown_layer_shows_the_nearest_and_images_of_another_size_both_sizes() -> None:
    reader = reader_of(perceptron(1), "fine-tuned")
    with pytest.raises(UserError, match=r"fine-tuned model has no layer 'blok.1'. Did you mean 'block.1'\?"):
        reader.check_layers(["block.0", "blok.1"])
    with pytest.raises(UserError, match="images are 3 x 8 x 8 but the fine-tuned model takes 3 x 4 x 4"):
        reader.check_inputs(images(2, (3, 8, 8)))
    with pytest.raises(UserError, match="no images"):
        reader.check_inputs(images(0))
