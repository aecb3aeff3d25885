"""What may not be gated because something of it would be lost without a word, and a refusal that leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from adaptive_ft.errors import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_own_forward(module: nn.Module, name: str) -> None:
    """Refuse a module whose class's forward, which the gate stands in or replaces, is not what runs."""
    if "forward" in vars(module):
        raise UserError(
            f"{name} has a forward of its own, set on this one module and not on its class (torch.compile, accelerate's"
            " dispatch or a patch does so), which no gate would reach: adapt the model before that is done."
        )


def check_leaf(module: nn.Module, kind: type[nn.Module], name: str) -> None:
    """Refuse a leaf that does anything else than a plain `kind`, as its gated form would not do it.

    Quantised Linears and those of other adapters are subclasses with a forward of another kind.
    """
    check_own_forward(module, name)
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        raise UserError(
            f"{name} is a {type(module).__name__}, which computes something else than a {kind.__name__}: load the model"
            " without quantisation and without other adapters."
        )
    if is_parametrized(module):
        raise UserError(
            f"{name} is parametrized (weight_norm, spectral_norm or another computes its weights), which its gated form"
            " would not be: call torch.nn.utils.parametrize.remove_parametrizations on it first."
        )
    if any(getattr(module, hooks) for hooks in HOOKS):
        raise UserError(
            f"{name} has hooks, which its gated form would not have: adapt the model first and register them then."
        )


@contextmanager
def trains_as_before_on_failure(model: nn.Module) -> Iterator[None]:
    """Where the context is left by an exception, exactly those weights of `model` train that did before."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        yield
    except BaseException:
        for weight, trained in before:
            weight.requires_grad_(trained)
        raise
