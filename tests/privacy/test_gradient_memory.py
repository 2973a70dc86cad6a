"""What an engine works with is gone when it is done: a private run is thousands of calls."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from gentool.privacy.gradients import layers
from gentool.privacy.gradients.tape import Tape


@pytest.mark.parametrize("draws", [1, 3])
def test_the_tape_and_the_graph_it_watched_do_not_hold_each_other(
    draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector does not see a cycle through autograd's nodes: it has to be one that never forms."""
    tapes: list[weakref.ref[Tape]] = []

    def watched(*arguments: Any) -> Tape:
        tape = Tape(*arguments)
        tapes.append(weakref.ref(tape))
        return tape

    monkeypatch.setattr(layers, "Tape", watched)
    network = nn.Sequential(nn.Linear(40, 40), nn.SiLU(), nn.Linear(40, 40))

    def losses(examples: Any) -> torch.Tensor:
        x = examples["x"].repeat_interleave(draws, 0)
        return network(x).square().sum(1).view(-1, draws).mean(1)

    engine = layers.Layers(network, losses)
    engine.part({"x": torch.randn(4, 40)}, 1.0)
    gc.collect()
    assert tapes[0]() is None
