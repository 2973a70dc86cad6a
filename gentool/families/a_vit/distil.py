"""Learning from a teacher beside the labels (Touvron et al. 2021, section 4): hard and soft distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from gentool.data import DataSpec
from gentool.errors import UserError
from gentool.families.a_vit.config import TEACHER_KEY, Distillation

if TYPE_CHECKING:
    from gentool.training.module import GenModule


def imitation(logits: Tensor, teacher: Tensor, config: Distillation) -> Tensor:
    """The loss against a teacher's logits (B, classes) that is added to the labels', 0-d.

    hard (eq. 3): cross-entropy to the teacher's likeliest class. soft (eq. 2): tau^2 KL(teacher || student) of both at
    temperature tau, in nats a picture.
    """
    if config.kind == "hard":
        return F.cross_entropy(logits, teacher.argmax(1))
    tau = config.temperature
    known, said = ((x / tau).log_softmax(1) for x in (teacher, logits))
    return tau**2 * F.kl_div(said, known, reduction="batchmean", log_target=True)


def distilled_loss(task: Tensor, aim: Tensor, config: Distillation) -> Tensor:
    """(1 - weight) task + weight aim."""
    return (1 - config.weight) * task + config.weight * aim


def check_teacher(teacher: GenModule, source: str, spec: DataSpec) -> None:
    """Refuses what is no classifier of these pictures.

    Raises:
        UserError: says what it is.
    """
    try:
        teacher.judge()
    except UserError:
        raise UserError(
            f"a run of the family {teacher.recipe.family} is no classifier: {source}", TEACHER_KEY
        ) from None
    for what, theirs, ours in (
        ("reads pictures of", teacher.spec.shape, spec.shape),
        ("tells classes apart:", teacher.spec.classes, spec.classes),
    ):
        if theirs != ours:
            raise UserError(f"the teacher {source} {what} {theirs}, the student {ours}", TEACHER_KEY)
