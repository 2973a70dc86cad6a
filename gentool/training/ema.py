"""Moving average of the weights, by the four conventions of the field.

Sources: EDM, appendix F.2; score SDE's and k-diffusion's own rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gentool.errors import CorruptError
from gentool.recipes import schema
from gentool.training.sharding import gathered, local, placed


class Ema:
    """ema <- beta ema + (1 - beta) weights after every optimiser step; it starts as a copy of the model.

    Make it when the model is on its device.

    Parameters are averaged in float32 (float64 where they are); buffers are copied. With B the batch size, k
    the number of optimiser steps taken and n the number of images seen before the last:

    - `constant`: beta = decay.
    - `ramp`: beta = min(decay, (1 + k)/(10 + k)) (score SDE, flow matching).
    - `half-life`: beta = 0.5^(B / min(half_life, ramp_up n)), images; the first step copies (EDM).
    - `inverse-power`: beta = min(decay, 1 - k^-power); the first step copies (k-diffusion).

    Attributes:
        seen: images seen so far.
    """

    def __init__(self, model: nn.Module, config: schema.Ema) -> None:
        self.config = config
        self.seen = 0
        self._model: nn.Module | None = None
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._values = {
            name: self._as_kept(name, value).clone() for name, value in model.state_dict().items()
        }

    def to(self, device: torch.device) -> None:
        """Moves the average to where the model is."""
        self._model = None  # its buffers are new tensors there
        self._values = {name: value.to(device) for name, value in self._values.items()}

    def shard(self, model: nn.Module) -> None:
        """Keeps of each weight's average the share that this device has of the model's weight."""
        self._model = None
        weights = model.state_dict(keep_vars=True)
        self._values = {name: placed(value, weights[name]) for name, value in self._values.items()}

    def beta(self, step: int, batch_size: int) -> float:
        """Decay of the update after optimiser step `step` (1, 2 ..), before its images are counted."""
        c = self.config
        if c.rule == "constant":
            return c.decay
        if c.rule == "ramp":
            return min(c.decay, (1 + step) / (10 + step))
        if c.rule == "half-life":
            horizon = min(c.half_life, c.ramp_up * self.seen)
            return 0.5 ** (batch_size / horizon) if horizon > 0 else 0.0
        return min(c.decay, 1 - step**-c.power)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, batch_size: int) -> None:
        """Take in the model's weights after optimiser step `step` (1, 2 ..) on `batch_size` images."""
        weight = 1 - self.beta(step, batch_size)
        self.seen += batch_size
        if self._model is not model:
            self._follow(model)
        averages = [local(self._values[name]) for name in self._followed]
        currents = [
            local(value).to(mean.dtype) for mean, value in zip(averages, self._followed.values(), strict=True)
        ]
        torch._foreach_lerp_(averages, currents, weight)
        for name, value in self._copied.items():
            self._values[name].copy_(value)

    def _follow(self, model: nn.Module) -> None:
        """Notes the model's tensors: walking its modules would cost a small model a twentieth of every step."""
        current = model.state_dict(keep_vars=True)
        self._model = model
        self._followed = {name: value for name, value in current.items() if name in self._parameters}
        self._copied = {name: value for name, value in current.items() if name not in self._parameters}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model with the averaged weights in place; its own come back at the end, whatever happens."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            model.load_state_dict(self._values)
            yield model
        finally:
            model.load_state_dict(own)

    def model_state(self) -> dict[str, Tensor]:
        """The averaged weights under the names of the model's `state_dict`: what sampling loads.

        Of a sharded model on rank 0 alone, though every rank calls it.
        """
        return gathered(self._values)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: `{"seen": int, "values": {name: tensor}}`."""
        return {"seen": self.seen, "values": self.model_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            CorruptError: when it is not the state of an average of this model; names the first weight that
            differs.
        """
        values, seen = state.get("values"), state.get("seen")
        if not isinstance(values, dict) or not isinstance(seen, int):
            raise CorruptError("EMA state: expected {seen: a count of images, values: tensors by name}")
        differ = sorted(values.keys() ^ self._values.keys()) or [
            name for name, value in self._values.items() if values[name].shape != value.shape
        ]
        if differ:
            raise CorruptError(f"EMA of another model: {differ[0]} is missing, unknown or of another shape")
        for name, value in self._values.items():
            value.copy_(values[name])
        self.seen = seen

    def _as_kept(self, name: str, value: Tensor) -> Tensor:
        keep = torch.promote_types(value.dtype, torch.float32) if name in self._parameters else value.dtype
        return value.detach().to(keep)
