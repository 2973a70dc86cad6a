"""From checked options to a guidance that a predictor takes, or a refusal that says what to do."""

from __future__ import annotations

from collections.abc import Callable

from gentool.diffusion.guidance.catalog import (
    ClassifierFreeOptions,
    ClassifierOptions,
    PagOptions,
    Spec,
)
from gentool.diffusion.guidance.classifier import Classifier, Gain, LogProb
from gentool.diffusion.guidance.classifier_free import Adaptive, ClassifierFree, Projected
from gentool.diffusion.guidance.compose import Null, Rule, compose
from gentool.diffusion.guidance.perturbed import Perturbed
from gentool.diffusion.predictor import Guidance
from gentool.errors import UserError


def build(
    spec: Spec,
    *,
    null_label: Null | None,
    label_dropout: float,
    has_attention: bool,
    log_prob: LogProb | None = None,
    mean_gain: Gain | None = None,
) -> Guidance | None:
    """The rules of `spec` as one guidance; None when there are none.

    Args:
        spec: from `catalog.check`.
        null_label: the number of classes, or what turns conditions into ones that say nothing; None for an
            unconditional model.
        label_dropout: the share of labels that training replaced by the null label.
        has_attention: the network has self-attention; the caller then gives the predictor the variant
            `"perturbed"`.
        log_prob: a classifier of noisy states, for the rule `classifier`.
        mean_gain: what shifts the means of the solver's steps, for its form `mean`; None: they have none.

    Raises:
        UserError: the model lacks what a rule needs.
    """
    if not spec:
        return None
    rules: list[Rule] = []
    for name, options in spec.items():
        match options:
            case ClassifierFreeOptions():
                _check_labels(name, options, null_label, label_dropout)
                rules.append(_CLASSIFIER_FREE[name](**dict(options)))
            case PagOptions():
                if not has_attention:
                    raise UserError("pag: this network has no self-attention to perturb; take cfg or apg")
                rules.append(Perturbed(options.scale))
            case ClassifierOptions():
                if log_prob is None:
                    raise UserError(
                        "classifier: no classifier given; name a run trained on noisy images with "
                        "gentool sample --classifier RUN"
                    )
                if options.form == "score":
                    rules.append(Classifier(options.scale, log_prob))
                elif mean_gain is None:
                    raise UserError(
                        "classifier: form mean shifts the means of ancestral steps; take the solver ddpm, or ddim "
                        "with eta above 0, without time_shift, or form score"
                    )
                else:
                    rules.append(Classifier(options.scale, log_prob, mean_gain))
    return compose(rules, null_label)


_CLASSIFIER_FREE: dict[str, Callable[..., Rule]] = {
    "cfg": ClassifierFree,
    "apg": Projected,
    "adaptive": Adaptive,
}


def _check_labels(
    name: str, options: ClassifierFreeOptions, null_label: Null | None, label_dropout: float
) -> None:
    if null_label is None:
        raise UserError(f"{name}: this model was trained without labels; take pag, or train with labels")
    if label_dropout == 0 and options.scale != 1:
        raise UserError(
            f"{name}: this model never saw the null label, so it has no unlabelled prediction; "
            "train with label dropout (0.1 is usual), or take pag or classifier"
        )
