"""Where the components of LXMERT sit, in the original's decision order.

Language layers, then region layers, then cross layers. A language or region layer has H heads, attention
output, FFN in, FFN out (15 components with 12 heads). A cross layer has H heads and the output of the ONE
cross-attention module that serves both directions with the same gates, the same of the language and of the
region self attention, then language FFN in, region FFN in, language FFN out, region FFN out (43 components
with 12 heads). Base size: 9 x 15 + 5 x 15 + 5 x 43 = 425. Source: docs/method.md 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import LxmertModel

from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.models.anatomy import Anatomy, Block, Leaf, leaves_of


@dataclass(frozen=True, slots=True)
class Part:
    """One or more components of a layer, the modules they split, and the stream they sit on."""

    name: str
    modules: tuple[str, ...]
    per_head: bool = False
    region: bool = False


def _attention(name: str, module: str, inner: str, *, region: bool) -> tuple[Part, Part]:
    """The heads and the output of one attention module."""
    projections = tuple(f"{module}.{inner}.{role}" for role in ("query", "key", "value"))
    output = (f"{module}.output.dense", f"{module}.output.LayerNorm")
    return Part(name, projections, per_head=True, region=region), Part(f"{name}.output", output, region=region)


def _ffn_in(name: str, module: str, *, region: bool) -> Part:
    return Part(f"{name}.in", (f"{module}.dense",), region=region)


def _ffn_out(name: str, module: str, *, region: bool) -> Part:
    return Part(f"{name}.out", (f"{module}.dense", f"{module}.LayerNorm"), region=region)


def _stream_parts(*, region: bool) -> tuple[Part, ...]:
    """The parts of a language or region layer."""
    return (
        *_attention("attention", "attention", "self", region=region),
        _ffn_in("ffn", "intermediate", region=region),
        _ffn_out("ffn", "output", region=region),
    )


LANGUAGE_PARTS = _stream_parts(region=False)
REGION_PARTS = _stream_parts(region=True)
CROSS_PARTS = (
    *_attention("cross_attention", "visual_attention", "att", region=False),
    *_attention("language_attention", "lang_self_att", "self", region=False),
    *_attention("region_attention", "visn_self_att", "self", region=True),
    _ffn_in("language_ffn", "lang_inter", region=False),
    _ffn_in("region_ffn", "visn_inter", region=True),
    _ffn_out("language_ffn", "lang_output", region=False),
    _ffn_out("region_ffn", "visn_output", region=True),
)


@dataclass(frozen=True, slots=True)
class Stack:
    """Equal layers: their name, the path of their list, the size that counts them, their parts and streams."""

    name: str
    path: str
    counted_by: str
    parts: tuple[Part, ...]
    streams: Mapping[str, str]


STACKS = (
    Stack("language", "encoder.layer", "l_layers", LANGUAGE_PARTS, {"hidden_states": "language"}),
    Stack("region", "encoder.r_layers", "r_layers", REGION_PARTS, {"hidden_states": "region"}),
    Stack("cross", "encoder.x_layers", "x_layers", CROSS_PARTS, {"lang_feats": "language", "visual_feats": "region"}),
)


def describe(backbone: LxmertModel, prefix: str) -> Anatomy:
    """The anatomy of an LxmertModel that sits at path `prefix` of its model; all sizes come from its config.

    Dead are the components on the region stream with no cross layer after them: the pooled output reads the
    language stream only (columns 408 to 420, 422 and 424 at base size).
    """
    config = backbone.config
    components: list[Component] = []
    live: list[bool] = []
    leaves: list[Leaf] = []
    blocks: list[Block] = []
    dot = prefix and f"{prefix}."
    last_read = f"cross.{config.x_layers - 1}"
    for stack in STACKS:
        for number in range(getattr(config, stack.counted_by)):
            layer, module = f"{stack.name}.{number}", f"{dot}{stack.path}.{number}"
            joined_later = config.x_layers > 0 and layer != last_read
            blocks.append(Block(module, len(components), stack.streams, stack.counted_by))
            for part in stack.parts:
                heads: list[int | None] = [*range(config.num_attention_heads)] if part.per_head else [None]
                start, stop = len(components), len(components) + len(heads)
                components.extend(Component(layer, part.name, head) for head in heads)
                live.extend(joined_later or not part.region for _ in heads)
                paths = [f"{stack.path}.{number}.{path}" for path in part.modules]
                modules = {f"{dot}{path}": backbone.get_submodule(path) for path in paths}
                leaves.extend(leaves_of(f"{layer}.{part.name}", modules, start, stop))
    return Anatomy(prefix, ComponentMap(tuple(components), tuple(live)), tuple(leaves), tuple(blocks))
