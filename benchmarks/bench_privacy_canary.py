"""An attack on whole private trainings: was one mislabelled outlier among the digits?

The attacker sees what every step releases (as who has each checkpoint does), knows all the other records and the
outlier, and not who joined which step. Source: gradient canaries of Nasr et al. 2023, Tight auditing of differentially
private machine learning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from audit import CONFIDENCE, lower_bound
from common import Claim, Result, Settings, main, say

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.privacy.gradients.engine import Engine, Examples
    from gentool.privacy.plan import Plan

RECIPE = (
    "classifier/mnist-logreg-dp-small",
    "data={name: digits, batch_size: 256}",
    "trainer.max_steps=20",
    "ema=null",
)
LR = 1e-2
EPSILONS, DELTA = (1.0, 4.0), 1e-3
CANARY_LABEL = 3


@dataclass
class World:
    """The digits, the outlier after them, and what every training of one budget shares."""

    engine: Engine
    plan: Plan
    records: Examples
    canary: Examples

    def score(self, present: bool, secret: int, noise: float = 1.0) -> float:
        """The log-likelihood ratio, with the outlier over without, of one whole training's releases.

        A release along the direction of the outlier's clipped gradient c is q times the others' mean, plus c if it
        joined the step, plus noise. The others' sampling adds to the spread, which the ratio takes as Gaussian.

        Args:
            secret: of this training's batches and noise. noise: what is added, in units of what is stated.
        """
        import torch

        from gentool.privacy.randomness import Secrets
        from gentool.training.private.step import PrivateStep

        plan, size = self.plan, len(self.records["label"])
        step = PrivateStep(plan, Secrets(secret), engine=self.engine, physical_batch=size)
        batches = step.batches(size + present, 0, plan.steps)
        parameters = list(self.engine.parameters.values())
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        optimizer = torch.optim.Adam(parameters, lr=LR)
        everyone = {k: torch.cat([v, self.canary[k]]) for k, v in self.records.items()}
        q, std, ratio = plan.sample_rate, (plan.noise_multiplier or 0.0) * plan.sensitivity, 0.0
        for number in range(plan.steps):
            c = self.engine(self.canary, plan.sensitivity, 1).total
            unit = c / c.norm()
            spread = self.along(unit)
            taken = step.take({k: v[batches.batch(number)] for k, v in everyone.items()}, number).gradient
            if noise != 1.0:
                z = step.normal(number, len(taken), taken.device)
                taken = taken + (noise - 1) * std / plan.expected_batch * z
            x = float(taken @ unit) * plan.expected_batch - q * float(spread.sum())
            variance = std**2 + q * (1 - q) * float(spread.square().sum())
            size_c = float(c.norm())
            ratio += math.log1p(q * math.expm1((2 * x * size_c - size_c**2) / (2 * variance)))
            for parameter, gradient in self.engine.spread(taken):
                parameter.grad = gradient
            optimizer.step()
        return ratio

    def along(self, unit: Tensor) -> Tensor:
        """(N,) clipped gradients of the records along a direction, at the weights as they are.

        Logistic regression's are outer products, (p - y) times (x, 1): no need to hold N gradients.
        """
        import torch

        x, label = self.records["x"].flatten(1), self.records["label"]
        weight, bias = self.engine.parameters.values()
        residual = torch.softmax(x @ weight.T + bias, 1) - torch.nn.functional.one_hot(label, len(bias))
        norms = residual.norm(dim=1) * (1 + x.square().sum(1)).sqrt()
        w, b = unit[: weight.numel()].view_as(weight), unit[weight.numel() :]
        projected = (residual * (x @ w.T + b)).sum(1)
        return (projected * (self.plan.sensitivity / (norms + 1e-6)).clamp(max=1)).detach()


def world(epsilon: float) -> World:
    """One budget's trainings. The outlier is a checkerboard with the label 3."""
    import torch

    from gentool import families
    from gentool.data import open_set
    from gentool.privacy.gradients.engines import ENGINES
    from gentool.privacy.plan import plan
    from gentool.recipes.resolve import resolve
    from gentool.tasks.model.build import build_module

    overrides = (*RECIPE[1:], f"privacy.epsilon={epsilon}", f"privacy.delta={DELTA}")
    recipe = resolve(RECIPE[0], overrides, families.recipe_schema).recipe
    assert recipe.privacy is not None
    train = open_set(recipe.data, "train")
    module = build_module(recipe, train.spec)
    steps = recipe.trainer.max_steps
    made = plan(recipe.privacy, recipe.data.batch_size, steps, recipe.data.public_records())
    records = module.examples(train.take(range(len(train))))
    rows, columns = (torch.arange(side) for side in train.spec.shape[1:])
    board = ((rows[:, None] + columns) % 2 * 2.0 - 1).expand(1, *train.spec.shape)
    canary = {"x": board.to(records["x"]), "label": torch.tensor([CANARY_LABEL])}
    return World(ENGINES["layers"](module, module.losses), made, records, canary)


def audited(epsilon: float, trials: int, seed: int, noise: float = 1.0) -> float:
    """What the attack proves of trainings at this budget."""
    import torch

    found, scores = world(epsilon), []
    for present in (True, False):
        first = (2 * seed + present) * trials
        scores.append(torch.tensor([found.score(present, first + i, noise) for i in range(trials)]))
    return lower_bound(scores[0], scores[1], DELTA)


def run(settings: Settings) -> Result:
    trials = 1000 if settings.quick else 20_000
    figures: dict[str, Any] = {"trials": trials, "confidence": CONFIDENCE}
    for epsilon in EPSILONS:
        figures[f"epsilon {epsilon:g}"] = audited(epsilon, trials, settings.seed)
        say(f"epsilon {epsilon:g}: proved {figures[f'epsilon {epsilon:g}']:.3g}")
    low, high = (figures[f"epsilon {epsilon:g}"] for epsilon in EPSILONS)
    figures["a quarter of the stated noise"] = cheat = audited(EPSILONS[0], trials, settings.seed + 1, 0.25)
    text = "; ".join(
        f"{found:.2f} of {epsilon:g}" for found, epsilon in ((low, EPSILONS[0]), (high, EPSILONS[1]))
    )
    return Result(
        figures=figures,
        claims=[
            Claim(
                "an outlier among the digits: no attack on whole trainings proves more than the epsilon that is stated",
                "",
                text,
                "gentool's RDP accountant",
                low <= EPSILONS[0] and high <= EPSILONS[1],
            ),
            Claim(
                "the attack is a real one: it proves more than 0 where epsilon is 4, and with a quarter of the noise "
                "more than is stated",
                "",
                f"{high:.2f}; with a quarter of the noise {cheat:.2f} of {EPSILONS[0]:g}",
                "the same attack",
                high > 0 and cheat > EPSILONS[0],
            ),
        ],
        seeds=(settings.seed, settings.seed + 1),
        scale=f"{trials:,} trainings with the outlier and {trials:,} without, of 20 steps, delta {DELTA:g}; half of "
        f"them choose the threshold; lower bounds at {CONFIDENCE:.0%} confidence (Clopper and Pearson)",
        recipe=" ".join((*RECIPE, "and privacy as named")),
    )


if __name__ == "__main__":
    main("privacy_canary", run, __doc__)
