"""Where the components of a single-stream encoder sit, found by its structure: BERT, ViT and their kin.

The encoder is one stack of equal layers. Each layer's Linears are, in the order in which they are registered:
three equal projections (query, key and value, in any order), the attention output back to the model's width, one
or two equal Linears into the FFN (two where one gates the other, as in SwiGLU), and one out of it. Names play no
part. A layer has H heads, attention.output, ffn.in, ffn.out: 15 components with 12 heads, 180 in 12 layers.

Which component a LayerNorm belongs to:

* post-norm (BERT): it stands beside the output Linear in one module, and is part of that output;
* pre-norm (ViT): the second one feeds the FFN only, so that its scale and shift are factors of ffn.in's weight
  and bias; the first feeds all heads at once and cannot differ between them, so that it goes with
  attention.output, the one part of the attention that no head owns.

So every norm has a frozen and a tuned half: with all gates frozen the encoder is the pretrained one, and with
all tuned it is ordinary fine-tuning. Anything else inside a layer (DINOv2's LayerScale) stays frozen: it scales
the rows of an output Linear, which a tuned Linear can do itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from adaptive_ft.components import Component, ComponentMap
from adaptive_ft.errors import UserError
from adaptive_ft.models.anatomy import Anatomy, Block, Leaf, leaves_of

# The layers of every family in `models.FAMILIES` take and return one tensor under this name (transformers 5.23).
STREAMS = {"hidden_states": "hidden_states"}
COUNTED_BY = "num_hidden_layers"

Shape = tuple[int, int]  # inputs and outputs of a Linear

LOOKED_FOR = (
    "three equal Linears (query, key, value), one back to the model's width (attention output), one or two equal ones "
    "into the FFN and one out of it, in this order"
)


@dataclass(frozen=True, slots=True)
class Roles:
    """Paths inside a layer of the modules of each of its parts, and names of the weights that no gate chooses."""

    heads: tuple[str, ...]
    attention_output: tuple[str, ...]
    ffn_in: tuple[str, ...]
    ffn_out: tuple[str, ...]
    ungated: tuple[str, ...]

    def parts(self, num_heads: int) -> Iterable[tuple[str, tuple[str, ...], tuple[int | None, ...]]]:
        """(part, module paths, its heads or None) in the order of the components."""
        yield "attention", self.heads, tuple(range(num_heads))
        yield "attention.output", self.attention_output, (None,)
        yield "ffn.in", self.ffn_in, (None,)
        yield "ffn.out", self.ffn_out, (None,)


def describe(backbone: nn.Module, prefix: str) -> Anatomy:
    """The anatomy of a single-stream `backbone` that sits at path `prefix` of its model; nothing in it is dead.

    Raises UserError, with what was looked for and what was found, when it has no such stack or layers, or one more
    layer outside the stack; and for a causal one.
    """
    config: Any = backbone.config
    if getattr(config, "is_decoder", False):
        raise UserError(
            f"{type(backbone).__name__}: is_decoder is set. A sample has one set of gates for all its tokens, so later "
            "tokens would steer how earlier ones are computed; only encoders can be adapted."
        )
    stack = _stack(backbone, config.num_hidden_layers)
    _check_no_layer_outside(backbone, stack)
    dot = prefix and f"{prefix}."
    components: list[Component] = []
    leaves: list[Leaf] = []
    blocks: list[Block] = []
    ungated: dict[str, str] = {}
    for number, layer in enumerate(backbone.get_submodule(stack).children()):
        place = f"{dot}{stack}.{number}"
        blocks.append(Block(place, len(components), STREAMS, COUNTED_BY))
        roles = _roles(layer, place, config.num_attention_heads)
        for part, modules, heads in roles.parts(config.num_attention_heads):
            start, stop = len(components), len(components) + len(heads)
            components.extend(Component(f"layer.{number}", part, head) for head in heads)
            found = {f"{place}.{module}": layer.get_submodule(module) for module in modules}
            leaves.extend(leaves_of(f"layer.{number}.{part}", found, start, stop))
        ungated.update({f"{place}.{name}": f"layer.{number}.ungated.{i}" for i, name in enumerate(roles.ungated)})
    live = (True,) * len(components)
    return Anatomy(prefix, ComponentMap(tuple(components), live), tuple(leaves), tuple(blocks), ungated)


def _stack(backbone: nn.Module, num_layers: int) -> str:
    """The path of the one list of `num_layers` modules of one class with Linears in them."""
    lists = {
        path: [type(layer).__name__ for layer in module]
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and any(isinstance(inner, nn.Linear) for inner in module.modules())
    }
    found = [path for path, names in lists.items() if len(names) == num_layers and len(set(names)) == 1]
    if len(found) == 1:
        return found[0]
    seen = "; ".join(f"'{path}' of {len(names)} {'/'.join(sorted(set(names)))}" for path, names in lists.items())
    raise UserError(
        f"{type(backbone).__name__}: nothing can be gated. Looked for one list of {num_layers} modules of one class "
        f"with Linears in them; found {seen or 'no list of modules with Linears'}."
    )


def _check_no_layer_outside(backbone: nn.Module, stack: str) -> None:
    """Refuse a layer that would be neither gated nor frozen (VisualBERT's with bypass_transformer)."""
    kinds = {type(layer) for layer in backbone.get_submodule(stack).children()}
    for path, module in backbone.named_modules():
        if type(module) in kinds and not path.startswith(f"{stack}."):
            raise UserError(
                f"{type(backbone).__name__}: '{path}' is one more {type(module).__name__} outside the list '{stack}', "
                "which no gate would choose; such a model cannot be adapted."
            )


def _roles(layer: nn.Module, place: str, num_heads: int) -> Roles:
    """The modules of `layer` by their part."""
    linears = {
        path: (module.in_features, module.out_features)
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    _check_linears(list(linears.items()), place, num_heads)
    query, key, value, attention_output, *ffn_in, ffn_out = linears
    of_attention, of_ffn_in, of_ffn_out = _norms(layer, place, attention_output, ffn_out)
    parts = (
        (query, key, value),
        (attention_output, *of_attention),
        (*ffn_in, *of_ffn_in),
        (ffn_out, *of_ffn_out),
    )
    gated = {path for part in parts for path in part}
    ungated = tuple(name for name, _ in layer.named_parameters() if name.rpartition(".")[0] not in gated)
    return Roles(*parts, ungated)


def _check_linears(linears: list[tuple[str, Shape]], place: str, num_heads: int) -> None:
    """Refuse a layer whose Linears are not those of an attention and an FFN."""
    shapes = [shape for _, shape in linears]
    width, attended = shapes[0] if shapes else (0, 0)
    if attended == 3 * width > 0 and shapes[1:2] == [(width, width)]:
        raise UserError(
            f"{place}: '{linears[0][0]}' computes query, key and value in one Linear ({width} -> {attended}); a gate "
            "per head needs three Linears, so a model with fused projections cannot be adapted."
        )
    inner = shapes[-1][0] if shapes else 0
    attention = [(width, attended)] * 3 + [(attended, width)]
    if not any(shapes == [*attention, *[(width, inner)] * count, (inner, width)] for count in (1, 2)):
        seen = ", ".join(f"'{path}' {inputs} -> {outputs}" for path, (inputs, outputs) in linears)
        raise UserError(f"{place}: nothing can be gated. Looked for {LOOKED_FOR}; found {seen or 'no Linear'}.")
    if attended % num_heads:
        raise UserError(f"{place}: '{linears[0][0]}' has {attended} outputs, which {num_heads} heads do not divide.")


def _norms(layer: nn.Module, place: str, attention_output: str, ffn_out: str) -> tuple[list[str], list[str], list[str]]:
    """The LayerNorms that belong to attention output, FFN in and FFN out: as the module docstring says."""
    norms = [path for path, module in layer.named_modules() if isinstance(module, nn.LayerNorm)]
    beside = {_parent(attention_output), _parent(ffn_out)} - {""}
    after_attention = [path for path in norms if _parent(path) in beside & {_parent(attention_output)}]
    after_ffn = [path for path in norms if _parent(path) in beside & {_parent(ffn_out)}]
    before = [path for path in norms if path not in (*after_attention, *after_ffn)]
    counts = (len(after_attention), len(after_ffn), len(before))
    if counts == (1, 1, 0):
        return after_attention, [], after_ffn
    if counts == (0, 0, 2):
        return before[:1], before[1:], []
    raise UserError(
        f"{place}: looked for one LayerNorm beside each output Linear (post-norm), or for two elsewhere (pre-norm); "
        f"found {', '.join(norms) or 'none'}."
    )


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
