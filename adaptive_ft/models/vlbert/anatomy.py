"""Where the components of VL-BERT sit, in the original's decision order.

Every layer has H heads, attention output, FFN in, FFN out: 15 components with 12 heads, 12 x 15 = 180 at base
size. Source: docs/method.md 2.
"""

from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.models.anatomy import Anatomy, Leaf
from adaptive_ft.models.vlbert.modeling import VLBertModel

PROJECTIONS = ("attention.self.query", "attention.self.key", "attention.self.value")
SUBLAYERS = {
    "attention.output": ("attention.output.dense", "attention.output.LayerNorm"),
    "ffn.in": ("intermediate.dense",),
    "ffn.out": ("output.dense", "output.LayerNorm"),
}


def describe(backbone: VLBertModel, prefix: str) -> Anatomy:
    """The anatomy of a VLBertModel that sits at path `prefix` of its model; all sizes come from its config.

    No component is dead: the answer is read from the last layer, in which every token reaches the [MASK].
    """
    heads = backbone.config.num_attention_heads
    dot = prefix and f"{prefix}."
    components: list[Component] = []
    leaves: list[Leaf] = []
    for number in range(backbone.config.num_hidden_layers):
        layer, module = f"layer.{number}", f"{dot}encoder.layer.{number}"
        start = len(components)
        components.extend(Component(layer, "attention", head) for head in range(heads))
        leaves.extend(Leaf(f"{module}.{path}", start, start + heads) for path in PROJECTIONS)
        for part, paths in SUBLAYERS.items():
            column = len(components)
            components.append(Component(layer, part))
            leaves.extend(Leaf(f"{module}.{path}", column, column + 1) for path in paths)
    return Anatomy(prefix, ComponentMap(tuple(components), (True,) * len(components)), tuple(leaves))
