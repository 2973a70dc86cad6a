"""What `gentool purify --attack` puts to the test, opened and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.attacks.defence import Logits, Purified
from gentool.diffusion.gradients.rollout import Replay
from gentool.diffusion.purify import Purifier
from gentool.diffusion.purify_levels import notices
from gentool.errors import GentoolError, UserError
from gentool.runs.folder import RunFolder
from gentool.runs.weights import fingerprint
from gentool.tasks.model.load import best_device, load_run
from gentool.tasks.pictures.read import Split, fit_shape, read_pictures
from gentool.tasks.pictures.readings import load_judge
from gentool.tasks.purification.purifier import Settings, build_purifier
from gentool.training.watching import Say, unsaid

SELF_TEST_STEPS = 4
SELF_TEST_ERROR = 1e-4


@dataclass(frozen=True)
class Target:
    """What is put to the test: a purifier before a classifier, on labelled pictures.

    Attributes:
        logits: of pictures (B, C, H, W) in [-1, 1].
        x: (N, C, H, W) float pictures in [0, 1]. label: (N,).
        identity: what tells this target from every other: digests of weights and data.
    """

    purifier: Purifier
    logits: Logits
    x: Tensor
    label: Tensor
    identity: Mapping[str, Any]


def open_target(
    path: Path | str,
    source: str,
    classifier: str,
    *,
    settings: Settings,
    split: Split = "test",
    say: Say = unsaid,
) -> tuple[RunFolder, Target]:
    """A diffusion run before a classifier's run, on the labelled pictures of a data set or file, on the device.

    Raises:
        UserError: no diffusion run, no classifier, or pictures without labels or of another shape.
    """
    device = best_device()
    run, resolved, module = load_run(path)
    purifier = build_purifier(module.to(device), settings)
    if purifier.method != "ld-sde":
        for line in notices(purifier.sigma_star):
            say(line)
    found = read_pictures(source, known=resolved.recipe.data, split=split, say=say)
    if found.labels is None or bool((found.labels < 0).any()):
        raise UserError("has no labels: an attack needs to know what each picture shows", source)
    fit_shape(found.x, module.spec.shape, found.name)
    judged, _, judge = load_judge(classifier, module.spec.shape, device)
    x, label = (found.x / 2 + 0.5).clamp(0, 1).to(device), torch.from_numpy(found.labels).long().to(device)
    identity = {
        "run": run.path.name,
        "model_sha256": fingerprint(run.weights),
        "classifier": judged.path.name,
        "classifier_sha256": fingerprint(judged.weights),
        "data": source,
        "data_sha256": digest(x, label),
    }
    return run, Target(purifier, judge.logits, x, label, identity)


def purified(purifier: Purifier, logits: Logits) -> Purified:
    return Purified(purifier, logits, calls=purifier.nfe, replayed=purifier.replay is not None)


def gradient_check(target: Target, seed: int) -> float:
    """Relative difference between the exact gradient and plain back-propagation, on one picture and 4 steps.

    Raises:
        GentoolError: they differ: no figure of such an attack would mean anything.
    """
    steps = min(SELF_TEST_STEPS, target.purifier.steps)
    found = []
    for replay in (None, Replay()):
        fed = target.x[:1].clone().requires_grad_()
        one = purified(replace(target.purifier, steps=steps, replay=replay), target.logits)
        margin = one(fed, [0], seed, [0])[0]
        (gradient,) = torch.autograd.grad(margin[int(target.label[0])], fed)
        found.append(gradient.double())
    error = float((found[0] - found[1]).norm() / found[0].norm().clamp(min=1e-30))
    if not error < SELF_TEST_ERROR:
        raise GentoolError(
            f"the gradient through the sampler is off by {error:.2g}: no attack by it proves anything"
        )
    return error


def digest(x: Tensor, label: Tensor) -> str:
    """SHA-256 of the pictures and their labels."""
    content = hashlib.sha256(x.cpu().contiguous().numpy().tobytes())
    content.update(label.cpu().numpy().tobytes())
    return content.hexdigest()
