"""Reading images: one pass where the features fit into what may be kept, more where they do not."""

import pytest
import torch

from adaptive_ft.analysis import measured_images
from adaptive_ft.analysis.measured_images import Images, MeasureConfig
from tests.analysis.small_readers import counted, images, perceptron, reader_of


@pytest.mark.parametrize("similarity", ["linear", "minibatch"])
def test_layers_that_do_not_fit_are_read_in_further_passes(similarity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images of 20 and 16 float32 features are 1440 bytes; the third layer, alone, is more than may be kept."""
    reader, passes = counted(reader_of(perceptron(1, (20, 16, 400, 8))))
    x = images(10)
    read = Images(x, MeasureConfig(similarity=similarity, batch_size=5))
    whole = read.blocks(reader, x, reader.layers)
    assert passes.looking == [reader.layers] * 2
    passes.looking.clear()
    monkeypatch.setattr(measured_images, "KEPT_BYTES", 1440)
    parts = read.blocks(reader, x, reader.layers)
    assert list(parts) == list(reader.layers)
    for layer in reader.layers:
        assert all(map(torch.equal, whole[layer], parts[layer]))
    first, second, third, last = reader.layers
    if similarity == "linear":
        assert passes.looking == [
            (first, second, third, last), (first, second), (third, last), (third,), (last,), (last,)
        ]  # fmt: skip
    else:  # two matrices of 5 x 5 float64 per layer: three layers are 1200 bytes
        assert passes.looking == [reader.layers, (first, second, third), (last,), (last,)]
