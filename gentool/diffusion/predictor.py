"""What a solver sees of a model: one call, x0 from the canonical state.

One denoiser for all solvers, and the one place where network calls are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gentool.diffusion.convert import per_sample
from gentool.diffusion.derivative import along_flow

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x (B, ...), sigma (B,), label (B,) or None) -> D (B, ...): one network call."""

Derive = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(x, sigma, label) -> (D, d eps/d sigma along the flow), both (B, ...), from one network call."""


Spread = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(x, sigma, label) -> (D, v), both (B, ...), from one network call: `Denoiser.with_variance`."""


class Call(Protocol):
    """One counted network call on any number of rows; `variant` names another version of the network."""

    def __call__(
        self, x: Tensor, sigma: Tensor, label: Tensor | None, variant: str | None = None
    ) -> Tensor: ...


class Guidance(Protocol):
    """A guidance rule (docs/guidance.md): turns calls of the network into a guided x0 prediction.

    `memory` is the rule's own state between calls (momentum, stickiness), None at the start of a trajectory.
    A rule must be a pure function.
    """

    def __call__(
        self, call: Call, x: Tensor, sigma: Tensor, label: Tensor | None, memory: Any
    ) -> tuple[Tensor, Any]: ...


class Predictor:
    """A denoiser bound to labels, guidance and thresholding for one batch of one sampling call.

    Args:
        denoise: the network as x0 prediction, in the canonical state (float32 in, float32 out).
        derive: the network with a head that predicts the derivative of eps, where there is one.
        spread: the network with the variances that it learned, where it did.
        variants: other versions of the network that a rule may call by name (`"perturbed"`).
        sigma_min, sigma_max: the range the network was trained on; sigma is clipped to it.
        label: (B,) class labels, or None.
        guidance: a rule, or None for the plain conditional prediction.
        threshold: clip x0 to [-1, 1] (`static`), or to the 99.5 % quantile and rescale (`dynamic`, Imagen); after
            guidance, before any solver history.
        dtype: what the network is fed; the result comes back in the state's own dtype.

    Attributes:
        nfe: network calls per sample so far (a float: rules that skip calls for some samples count those alone).
    """

    def __init__(
        self,
        denoise: Denoise,
        *,
        derive: Derive | None = None,
        spread: Spread | None = None,
        variants: Mapping[str, Denoise] | None = None,
        sigma_min: float = 0.0,
        sigma_max: float = float("inf"),
        label: Tensor | None = None,
        guidance: Guidance | None = None,
        threshold: Literal["none", "static", "dynamic"] = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.denoise = denoise
        self.derive = derive
        self.spread = spread
        self.variants = dict(variants or {})
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.label = label
        self.guidance = guidance
        self.threshold = threshold
        self.dtype = dtype
        self.nfe = 0.0
        self._memory: Any = None
        self._price = 1.0

    def memory(self) -> Any:
        """The guidance rule's state, to replay a step from."""
        return self._memory

    def restore(self, memory: Any) -> None:
        self._memory = memory

    def _call(self, x: Tensor, sigma: Tensor, label: Tensor | None, variant: str | None = None) -> Tensor:
        network = self.denoise if variant is None else self.variants[variant]
        self._count(x)
        out = network(x, sigma, label)
        return out.to(self.dtype) if out.dtype != self.dtype else out

    def _count(self, x: Tensor) -> None:
        self.nfe += self._price * x.shape[0] / self._batch

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x (B, ...) canonical state, sigma a number, 0-d or (B,) tensor -> D (B, ...) in x's dtype."""
        fed, level = self._fed(x, sigma)
        return self._guided(fed, level).to(x.dtype)

    def derivative(self, x: Tensor, sigma: Tensor | float, *, exact: bool) -> tuple[Tensor, Tensor]:
        """(D, d eps/d sigma along the flow), both (B, ...) in x's dtype; arguments as the call's.

        exact: differentiate the whole prediction, guidance and thresholding included, forward. That runs the network
            once for the direction, and once with a tangent beside every value, which is counted as two calls: three in
            all for each plain one. Otherwise `derive` predicts it, at no call beside the plain one; a rule that mixes
            predictions mixes the derivatives alike (GENIE, appendix on guidance), which leaves out how the guided flow
            moves each branch's state. Only rules linear in the predictions may be given, and no thresholding.
        """
        fed, level = self._fed(x, sigma)
        x0, slope = self._exact(fed, level) if exact else self._predicted(fed, level)
        return x0.to(x.dtype), slope.to(x.dtype)

    def with_variance(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """(D, v), both (B, ...) in x's dtype, of a network that learned the variances of ancestral steps; arguments
        as the call's. No rule that mixes predictions may be given: variances do not mix as they do."""
        if self.spread is None or self.guidance is not None:
            raise ValueError("learned variances of a guided prediction, or of a model that learned none")
        fed, level = self._fed(x, sigma)
        self._count(fed)
        x0, v = self.spread(fed, level, self.label)
        return _clip(x0, self.threshold).to(x.dtype), v.to(x.dtype)

    def _exact(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        before = self._memory
        x0 = self._guided(x, level)
        after = self._memory

        def eps(x: Tensor, level: Tensor) -> Tensor:
            self._memory = before
            return (x - self._guided(x, level)) / per_sample(level, x)

        self._price = 2.0
        try:
            _, slope = along_flow(eps, x, level, (x - x0) / per_sample(level, x))
        finally:  # what the rule remembers inside the product are its dual numbers
            self._price, self._memory = 1.0, after
        return x0, slope

    def _predicted(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        derive = self.derive
        if derive is None:
            raise ValueError("the predicted derivative of a model without a head")

        def both(x: Tensor, sigma: Tensor, label: Tensor | None, variant: str | None = None) -> Tensor:
            self._count(x)
            return torch.cat(derive(x, sigma, label), dim=1).to(self.dtype)

        if self.guidance is None:
            pair = both(x, level, self.label)
        else:
            pair, self._memory = self.guidance(both, x, level, self.label, self._memory)
        x0, slope = pair.chunk(2, dim=1)
        return x0, slope

    def _fed(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """What the network is given: x and sigma (B,) in its dtype, sigma within its range."""
        self._batch = x.shape[0]
        if isinstance(sigma, Tensor):
            level = sigma.to(x.device, torch.float64).clamp(self.sigma_min, self.sigma_max)
            level = level.to(self.dtype).expand(x.shape[0]).contiguous()
        else:  # filled on the device: a copy from the host would wait for the queue
            value = min(max(sigma, self.sigma_min), self.sigma_max)
            level = torch.full(x.shape[:1], value, dtype=self.dtype, device=x.device)
        return x.to(self.dtype), level

    def _guided(self, x: Tensor, level: Tensor) -> Tensor:
        if self.guidance is None:
            x0 = self._call(x, level, self.label)
        else:
            x0, self._memory = self.guidance(self._call, x, level, self.label, self._memory)
        return _clip(x0, self.threshold)


def _clip(x0: Tensor, threshold: str) -> Tensor:
    if threshold == "none":
        return x0
    if threshold == "static":
        return x0.clamp(-1, 1)
    size = x0.flatten(1).abs().float().quantile(0.995, dim=1).clamp(min=1).to(x0.dtype)
    size = size.view(-1, *[1] * (x0.dim() - 1))
    return x0.clamp(-size, size) / size
