"""The fast engine: one ordinary forward and backward pass, in which every layer tells what each record adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from gentool.networks.embedding import full_precision
from gentool.privacy.gradients.engine import ClippedSum, Engine, Examples, NoRuleError, records
from gentool.privacy.gradients.rules import RULES
from gentool.privacy.gradients.tape import Tape


class Layers(Engine):
    """Per-record gradients by the rules of `rules.py`, wherever in the model torch's functions are called.

    The batch goes through the network as a whole, so its kernels are those of ordinary training; a record's rows
    (its K draws, say) must stand side by side in whatever a layer is given.
    """

    def part(self, examples: Examples, clip: float) -> ClippedSum:
        device = next(iter(self.parameters.values())).device
        tape = Tape(records(examples), device)
        with _Watch(tape, self.parameters):
            losses = self.losses(examples)
        held = [p.grad for p in self.parameters.values()]
        for p in self.parameters.values():
            p.grad = None
        with full_precision(device):  # what autocast made stays in its type; sums over records do not
            losses.sum().backward()
        stray = [name for name, p in self.parameters.items() if p.grad is not None]
        for p, g in zip(self.parameters.values(), held, strict=True):
            p.grad = g
        if stray:
            raise NoRuleError(f"the gradient of {stray[0]} escapes the rules")
        total, norms = tape.clipped(list(self.parameters), clip)
        return ClippedSum(total, losses.detach(), norms)


class _Watch(TorchFunctionMode):
    """Within the context, functions that are given a parameter are computed by their rule."""

    def __init__(self, tape: Tape, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.tape = tape
        self._names = {id(p): name for name, p in parameters.items()}

    def name(self, value: Tensor | None) -> str | None:
        return self._names.get(id(value))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        touched = [name for v in _flat((*args, *kwargs.values())) if (name := self.name(v)) is not None]
        if not touched:
            return func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None:
            return rule(self.tape, self.name, *args, **kwargs)
        found = func(*args, **kwargs)
        if isinstance(found, Tensor) and found.requires_grad and self.name(found) is None:
            raise NoRuleError(f"there is no rule for {resolve_name(func) or func} of {touched[0]}")
        return found


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Arguments, and what is in lists among them."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value
