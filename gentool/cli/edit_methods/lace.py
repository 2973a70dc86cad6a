"""gentool edit --method lace."""

from __future__ import annotations

from gentool.cli.edit_methods.base import Given, Method, whole_numbers
from gentool.cli.output import emit, note
from gentool.errors import UserError

READS = {
    "ode": {"tolerance", "t_end"},
    "langevin": {"temperature", "rate", "steps"},
    "pc": {"pc_steps", "corrections", "snr", "stale_score"},
    "rejection": set[str](),
    "rejection-ode": {"tolerance", "t_end"},
}
"""What each sampler reads beside what all do."""


def _lace(given: Given) -> None:
    from dataclasses import fields, replace

    from gentool.cli.progress import progress
    from gentool.families.lace.constants import Constants
    from gentool.families.lace.control import Anchors
    from gentool.families.lace.energy import Operators
    from gentool.families.lace.samplers import Settings
    from gentool.recipes.overrides import parse_block
    from gentool.tasks.edit.lace import edit
    from gentool.tasks.edit.lace_leading import How

    quiet, sampler = given["quiet"], given["sampler"] or "ode"
    constants = parse_block(given["change"] or (), Constants, "--set")
    _refuse_idle(sampler, given, constants.model_fields_set)
    shared = {f.name for f in fields(Settings)} & Constants.model_fields.keys()
    settings = Settings(**{name: getattr(constants, name) for name in shared})
    if given["temperature"] is not None:
        settings = replace(settings, temperature=given["temperature"])
    if given["tolerance"] is not None:
        settings = replace(settings, rtol=given["tolerance"], atol=given["tolerance"])
    weights = {"near": given["anchor"], "logits": given["anchor_logits"]}
    said = {key: value for key, value in weights.items() if value is not None}
    how = How(
        sampler,
        settings,
        Operators(constants.gamma, constants.push),
        temperature=constants.logit_temperature,
        code_temperature=constants.code_temperature,
        anchors=replace(Anchors(), **said) if said else None,
        together=constants.led_by == "all",
        reweight=constants.reweight,
        layers=dict(_layers(text) for text in given["layers"] or ()),
        truncation=constants.truncation,
    )
    with progress("leading", "sample", quiet) as report:
        done = edit(
            given["run"],
            given["formula"],
            count=given["count"] or 16,
            seed=given["seed"],
            how=how,
            classifier=given["classifier"],
            condition=given["condition"],
            allow_same_judge=bool(given["allow_same_judge"]),
            out=given["out"],
            batch_size=given["batch_size"],
            report=report,
            say=lambda line: note(line, quiet),
        )
    scores = done.scores
    note(f"panel: {done.panel}", quiet)
    for name, pair in (
        ("accuracy", scores.together),
        ("Frechet distance", scores.frechet),
        ("mean |z|", scores.norm),
    ):
        if pair is not None:
            note(f"{name}: {pair['before']:.4g} before, {pair['after']:.4g} after", quiet)
    if scores.des is not None:
        note(f"disentangled edit strength: {', '.join(f'{d:.3f}' for d in scores.des)}", quiet)
    emit(done.document(), str(done.path), given["json"])


def _layers(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, layers = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"expected an attribute and its layers (digit=0-3), not {text!r}", "--layers")
    return name.strip(), whole_numbers(layers, "--layers")


def _refuse_idle(sampler: str, given: Given, said: set[str]) -> None:
    """Raises a `UserError` for what this sampler would ignore."""
    flags = {key for key in ("tolerance", "temperature") if given[key] is not None}
    for name in sorted(flags | said):
        readers = [other for other, reads in READS.items() if name in reads]
        if readers and sampler in READS and sampler not in readers:
            where = f"--{name}" if name in flags else f"--set {name}"
            raise UserError(f"the sampler {sampler} does not read it; it is for {', '.join(readers)}", where)
    if sampler.startswith("rejection") and "code_temperature" in said:
        raise UserError("rejection samples densities, and this is none", "--set code_temperature")


LACE = Method(
    "samples of a generator led to a formula over attributes",
    _lace,
    frozenset(
        {
            "formula",
            "sampler",
            "temperature",
            "tolerance",
            "anchor",
            "anchor_logits",
            "allow_same_judge",
            "condition",
            "change",
            "layers",
        }
    ),
    required=("formula",),
)
