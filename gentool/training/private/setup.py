"""From a recipe's `privacy:` block to a step: what cannot be kept is refused, and the engine is tried, before any data
are read.

Everything here runs on random numbers in the shape of the data: what is measured or refused says nothing of a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.privacy.gradients.engine import Engine, Examples, NoRuleError, chunks
from gentool.privacy.gradients.engines import ENGINES
from gentool.privacy.gradients.functional import Microbatch
from gentool.privacy.gradients.memory import bytes_per_record
from gentool.recipes.schema import Privacy
from gentool.training.module import GenModule
from gentool.training.probe import random_batch
from gentool.training.watching import Say

AGREE = 1e-3
"""Relative difference that two engines may have on random data; a wrong rule is off by a factor."""


def check(module: GenModule) -> None:
    """Refuses what a record's influence cannot be bounded for.

    Raises:
        UserError: names the module or the recipe's key, and says why.
    """
    recipe, family = module.recipe, module.recipe.family
    assert recipe.privacy is not None
    if module.own_private_step:
        return
    if type(module).losses is GenModule.losses:
        raise UserError(
            f"the family {family} does not train on a mean of losses of single records, which is what private "
            "training bounds the influence of",
            "privacy",
        )
    if recipe.privacy.noise_multiplicity > 1 and not module.averages_draws:
        raise UserError(
            f"the family {family} draws once per record, there is nothing to average: leave it at 1",
            "privacy.noise_multiplicity",
        )
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._NormBase) and (
            isinstance(child, nn.modules.batchnorm._BatchNorm) or child.track_running_stats
        ):
            raise UserError(
                f"{name} is a {type(child).__name__}: it computes with the whole batch, so that one record moves "
                "the gradients of all; use group or layer normalisation",
                "model",
            )


def build_engine(module: GenModule, privacy: Privacy, say: Say) -> Engine:
    """The engine asked for, tried on random data; `vmap` in place of `layers` where a layer has no rule.

    Raises:
        UserError: the model's gradients cannot be taken record by record.
    """
    engine = ENGINES[privacy.engine](module, module.losses)
    examples = _examples(module, 3)
    _check_pure(module, engine, examples)
    try:
        _compare(engine, examples)
    except NoRuleError as error:
        if privacy.engine != "layers":
            raise UserError(f"{error.message}; try privacy.engine: microbatch", "privacy.engine") from None
        say(f"privacy.engine: {error.message}; vmap takes its place, which is slower")
        engine = ENGINES["vmap"](module, module.losses)
        try:
            _compare(engine, examples)
        except NoRuleError as fault:
            raise UserError(f"{fault.message}; try privacy.engine: microbatch", "privacy.engine") from None
    return engine


def _check_pure(module: GenModule, engine: Engine, examples: Examples) -> None:
    """Every trainable weight has a gradient, and the loss of a record is its own: no buffers, no other records."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    gradients = torch.autograd.grad(
        module.losses(examples).sum(), list(engine.parameters.values()), allow_unused=True
    )
    unused = [name for name, g in zip(engine.parameters, gradients, strict=True) if g is None]
    if unused:
        raise UserError(
            f"the loss does not depend on {', '.join(unused)}: freeze what is not trained, as it would be given "
            "noise and nothing else",
            "model",
        )
    with _evaluating(module), torch.no_grad():
        whole, alone = module.losses(examples), torch.cat([module.losses(row) for row in chunks(examples, 1)])
    if not float((whole - alone).norm()) <= AGREE * float(alone.norm()):
        raise UserError(
            "the loss of a record depends on the others of its batch: a layer mixes records, so that one of them "
            "moves the gradients of all",
            "model",
        )
    for name, buffer in module.named_buffers():
        if not torch.equal(torch.nan_to_num(buffer), torch.nan_to_num(before[name])):
            raise UserError(
                f"the forward pass writes to the buffer {name}: it would carry records from step to step "
                "without noise",
                "model",
            )


def _compare(engine: Engine, examples: Examples) -> None:
    """The engine agrees with the loop over records, on records of very different gradients."""
    with _evaluating(engine.module):  # dropout draws otherwise each time
        reference = Microbatch(engine.module, engine.losses)(examples, 1.0, 1)
        clip = float(reference.norms.median())
        want, got = (e(examples, clip, 3) for e in (Microbatch(engine.module, engine.losses), engine))
    for a, b in ((want.norms, got.norms), (want.total, got.total)):
        if not float((a - b).norm()) <= AGREE * float(a.norm()):
            raise NoRuleError(
                "the gradients of single records differ from those of a loop over them: a layer is given records "
                "in an order that its rule does not expect"
            )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, mode in training.items():
            child.training = mode


def _examples(module: GenModule, count: int) -> dict[str, Tensor]:
    return module.try_examples(random_batch(module.spec, count, module.device))


def physical_batch(module: GenModule, engine: Engine, privacy: Privacy) -> tuple[int, float]:
    """(records at once, bytes that one takes): as asked for, or as many as `memory_gib` holds."""

    def put_through(count: int) -> None:
        engine(_examples(module, count), 1.0, count)

    each = bytes_per_record(module.device, put_through)
    if privacy.physical_batch is not None:
        return privacy.physical_batch, each
    return max(1, int(privacy.memory_gib * 2**30 / each)), each
