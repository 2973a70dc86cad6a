"""What samples are held against: the data they should look like, and a classifier of the user's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from gentool.data import DataSpec, parse_source
from gentool.data.cloud_reference import CloudReferenceConfig
from gentool.data.config import DataConfig
from gentool.errors import UserError
from gentool.metrics.classifier import OwnClassifier
from gentool.recipes.resolve import Resolved
from gentool.runs.weights import fingerprint
from gentool.tasks.model.load import load_run


def reference_data(asked: str | None, resolved: Resolved | None, target: str) -> DataConfig:
    """The data that samples are held against.

    Raises:
        UserError: none were named, and the samples do not say what they are to look like.
    """
    if asked is not None and Path(asked).suffix == ".pt":
        return CloudReferenceConfig(path=asked)
    if asked is not None:
        source, *options = [asked] if Path(asked).exists() else shlex.split(asked) or [asked]
        return parse_source(source, options)
    if resolved is None:
        raise UserError(
            "the file does not say what it was trained on: name the data with --reference", target
        )
    data: DataConfig = resolved.recipe.data
    return data


def own_classifier(path: str, spec: DataSpec, reference: str, device: torch.device) -> OwnClassifier:
    """The classifier of a run, as a judge of samples of this kind.

    Raises:
        UserError: the run is none of a classifier, or its images or classes are others.
    """
    run, _, module = load_run(path)
    judge = module.to(device).judge()
    ours = module.spec
    if (ours.shape, ours.class_names) != (spec.shape, spec.class_names):
        raise UserError(
            f"--classifier: it reads {_said(ours)}; {reference} has {_said(spec)}",
            path,
        )
    return OwnClassifier(judge, ours.shape, ours.classes, run.path.name, fingerprint(run.weights))


def _said(spec: DataSpec) -> str:
    names = ", ".join(spec.class_names[:12]) + " ..." * (len(spec.class_names) > 12)
    return f"{'x'.join(map(str, spec.shape))} in {spec.classes} classes ({names})"
