"""Exact gradients through a chain of steps, in memory that hardly grows with the chain.

Reverse mode through the very steps that made the result: states are kept instead of graphs, and every step is run
once more, with a graph of its own, when the gradient passes it. So the gradient is that of plain back-propagation,
step for step the same arithmetic. Sources: Griewank 1992 (checkpoints, recursive bisection), Chen et al. 2016
(1604.06174, sqrt(N) checkpoints), and the symplectic adjoint (2312.12030), whose ODE case this is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gentool.errors import GentoolError, UserError

TOLERANCE = 1e-5
"""Relative difference between a state and its replay up to which kernels may be nondeterministic."""

ChainStep = Callable[[Any, int], Any]
"""(state, i) -> state: a pure function of both. States are nests (tuples, lists, dicts, None) of tensors and plain
values; their layout may change from step to step."""


@dataclass(frozen=True)
class Replay:
    """How the gradient goes back through N steps.

    Attributes:
        keep: the states kept. `all` N of them: every step runs twice, forward passes included. `sqrt`, about
            2 sqrt(N): every step three times at most. `log`, about log2(N): the forward pass and some N log2(N) / 2
            steps more. A number K >= 2: K at each level of the recursion, about K log_K(N).
        wrt: tensors besides the start that the gradient is asked for: weights, an embedding, whatever `step` closes
            over. What is not named gets none.
        offload: keep the states in CPU memory.
    """

    keep: Literal["all", "sqrt", "log"] | int = "all"
    wrt: Sequence[Tensor] = ()
    offload: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.wrt, Tensor) or not all(isinstance(t, Tensor) for t in self.wrt):
            raise ValueError("wrt must be a sequence of tensors: a lone tensor is taken for its rows")
        if isinstance(self.keep, int) and self.keep < 2:
            raise UserError(f"at least 2 states must be kept at each level, not {self.keep}", "keep")

    def branches(self, steps: int) -> int:
        """States kept at each level of the recursion over this many steps."""
        if isinstance(self.keep, int):
            return self.keep
        return {"all": steps, "sqrt": math.isqrt(steps - 1) + 1, "log": 2}[self.keep]


def rollout(step: ChainStep, steps: int, start: Any, replay: Replay | None = None) -> Any:
    """`step(... step(step(start, 0), 1) ..., steps - 1)`, with gradients to `start` and to `replay.wrt`.

    Args:
        steps: how many; 0 returns `start`.
        replay: None is plain back-propagation, the reference: every step's graph is kept.

    Raises:
        UserError: in the backward pass, when a replayed step gives another state than before, or when a gradient of
            the gradient is asked for.
        GentoolError: in the backward pass, when a gradient is not finite; names the step.
    """
    if replay is None or steps == 0 or not torch.is_grad_enabled():
        return _run(step, steps, start)
    leaves, spec = pytree.tree_flatten(start)
    tensors = [leaf for leaf in leaves if _differentiable(leaf)]
    if not any(t.requires_grad for t in (*tensors, *replay.wrt)):
        return _run(step, steps, start)
    chain = _Chain(step, replay, replay.branches(steps), _autocast(tensors))
    found = iter(_Function.apply(chain, steps, _Snapshot(leaves, spec), *tensors, *replay.wrt))
    last = chain.last
    return pytree.tree_unflatten(
        [next(found) if _differentiable(leaf) else leaf for leaf in last.leaves], last.spec
    )


def _run(step: ChainStep, steps: int, state: Any) -> Any:
    for i in range(steps):
        state = step(state, i)
    return state


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _autocast(tensors: Sequence[Tensor]) -> Callable[[], AbstractContextManager[object]]:
    """The autocast in force here, to run the replay under."""
    device = tensors[0].device.type if tensors else "cpu"
    if not torch.is_autocast_enabled(device):
        return nullcontext
    dtype = torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype)


@dataclass(frozen=True)
class _Snapshot:
    """A state taken apart."""

    leaves: list[Any]
    spec: pytree.TreeSpec

    @classmethod
    def of(cls, state: Any, offload: bool = False) -> _Snapshot:
        leaves, spec = pytree.tree_flatten(state)
        kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return cls([leaf.cpu() if offload and isinstance(leaf, Tensor) else leaf for leaf in kept], spec)

    def state(self) -> Any:
        return pytree.tree_unflatten(self.leaves, self.spec)

    def on(self, devices: Sequence[torch.device | None]) -> _Snapshot:
        moved = [
            leaf if where is None else leaf.to(where)
            for leaf, where in zip(self.leaves, devices, strict=True)
        ]
        return _Snapshot(moved, self.spec)

    def devices(self) -> list[torch.device | None]:
        return [leaf.device if isinstance(leaf, Tensor) else None for leaf in self.leaves]


@dataclass(frozen=True)
class _Kept:
    """The state at the start of step i, and the devices it lived on."""

    i: int
    state: _Snapshot
    devices: list[torch.device | None]

    def load(self) -> _Snapshot:
        return self.state.on(self.devices)


class _Chain:
    """Runs steps, keeps states, and pulls cotangents back through them.

    Attributes:
        last: the state after the last step of the forward pass.
    """

    def __init__(
        self,
        step: ChainStep,
        replay: Replay,
        branches: int,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.step, self.replay, self.branches, self.autocast = step, replay, branches, autocast
        self.last: _Snapshot
        self._drift: list[tuple[int, Tensor]] = []
        self._finite: list[tuple[int, Tensor]] = []

    def walk(self, first: int, last: int, state: _Snapshot, *, whole: bool) -> tuple[list[_Kept], _Snapshot]:
        """The states kept of steps first .. last-1, and the last one reached: after step last-1 if `whole`, else
        the last kept one, since what comes after it is known."""
        size = -(-(last - first) // self.branches)
        kept = []
        for i in range(first, last):
            if (i - first) % size == 0:
                offloaded = _Snapshot.of(state.state(), self.replay.offload)
                kept.append(_Kept(i, offloaded, state.devices()))
                if not whole and i + size >= last:
                    break
            state = _Snapshot.of(self.step(state.state(), i))
        return kept, state

    def back(
        self, kept: list[_Kept], last: int, after: _Snapshot, grads: list[Tensor | None], wrt: list[Any]
    ) -> list[Tensor | None]:
        """Cotangents of the state `after` step last-1 -> those of the first kept state; adds to `wrt`'s."""
        for one in reversed(kept):
            state = one.load()
            if last - one.i == 1:
                grads = self._vjp(one.i, state, after, grads, wrt)
            else:
                with torch.no_grad(), self.autocast():
                    inner, _ = self.walk(one.i, last, state, whole=False)
                grads = self.back(inner, last, after, grads, wrt)
            last, after = one.i, state
        return grads

    def _vjp(
        self, i: int, state: _Snapshot, after: _Snapshot, grads: list[Tensor | None], wrt: list[Any]
    ) -> list[Tensor | None]:
        with torch.enable_grad():
            fed = [x.detach().requires_grad_() if _differentiable(x) else x for x in state.leaves]
            with self.autocast():
                out = pytree.tree_leaves(self.step(pytree.tree_unflatten(fed, state.spec), i))
            self._compare(i, out, after.leaves)
            pairs = [(y, g) for y, g in zip(out, grads, strict=True) if g is not None and y.requires_grad]
            inputs = [x for x in fed if _differentiable(x)]
            asked = [t for t in self.replay.wrt if t.requires_grad]
            found: Sequence[Tensor | None] = (None,) * (len(inputs) + len(asked))
            if pairs:
                ys, gs = zip(*pairs)
                found = torch.autograd.grad(ys, (*inputs, *asked), gs, allow_unused=True)
        for k, gradient in enumerate(found[len(inputs) :]):
            if gradient is not None:
                wrt[k] = gradient if wrt[k] is None else wrt[k] + gradient
        own = iter(found[: len(inputs)])
        pulled = [next(own) if _differentiable(x) else None for x in fed]
        for gradient in pulled:
            if gradient is not None:
                self._finite.append((i, gradient.isfinite().all()))
        return pulled

    @torch.no_grad()
    def _compare(self, i: int, out: Sequence[Any], known: Sequence[Any]) -> None:
        """Notes how far the replayed state is from the one of the forward pass; nothing waits for a device here."""
        if len(out) != len(known):
            raise UserError(_IMPURE.format(i=i, how="a state of another layout"))
        for y, x in zip(out, known):
            if _differentiable(y):
                apart = (y - x).double().norm() / x.double().norm().clamp(min=1e-30)
                self._drift.append((i, apart))

    def settle(self) -> None:
        """Raises what the backward pass noted."""
        drift, self._drift = self._drift, []
        finite, self._finite = self._finite, []
        if drift:
            worst, i = max((float(apart), i) for i, apart in drift)
            if worst > TOLERANCE:
                raise UserError(_IMPURE.format(i=i, how=f"a state that differs by {worst:.2g} (relative)"))
        for i, fine in finite:  # in the order of the backward pass: the first is where it began
            if not bool(fine):
                raise GentoolError(
                    f"the gradient is not finite once it has passed step {i} on its way back: the network's "
                    "derivative is infinite there, or the gradient grew beyond the range of its dtype"
                )


_IMPURE = (
    "the step is not reproducible: step {i} gave {how} when it was replayed, so no exact gradient can be had; look "
    "for dropout or batch norm in training mode, and for noise from a running generator (take gentool.noise.Noise)"
)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chain: _Chain, steps: int, start: _Snapshot, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.chain, ctx.steps = chain, steps
        ctx.kept, chain.last = chain.walk(0, steps, _Snapshot.of(start.state()), whole=True)
        # clones: a step may hand on its input, or one tensor twice
        return tuple(leaf.clone() for leaf in chain.last.leaves if _differentiable(leaf))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the answer would silently lack its second derivative
            raise UserError(
                "replay gives no gradient of a gradient; take plain back-propagation (replay=None)"
            )
        chain: _Chain = ctx.chain
        given = iter(cotangents)
        grads = [next(given) if _differentiable(leaf) else None for leaf in chain.last.leaves]
        for g in grads:
            if g is not None and not bool(g.isfinite().all()):
                raise GentoolError("the gradient of the loss with respect to the result is not finite")
        asked = [t.requires_grad for t in chain.replay.wrt]
        wrt: list[Tensor | None] = [None] * sum(asked)
        grads = chain.back(ctx.kept, ctx.steps, chain.last, grads, wrt)
        chain.settle()
        start = [g for g, leaf in zip(grads, ctx.kept[0].state.leaves, strict=True) if _differentiable(leaf)]
        mine = iter(wrt)
        return (None, None, None, *start, *(next(mine) if wanted else None for wanted in asked))
