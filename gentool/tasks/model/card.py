"""The model card of a run: what, on what, how good, what privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gentool import families
from gentool.errors import CorruptError, UserError
from gentool.privacy import statement
from gentool.privacy.account import Account, account_of
from gentool.privacy.runs import ledger_of
from gentool.privacy.statement import rounded_up
from gentool.recipes.resolve import Resolved
from gentool.runs.folder import RunFolder


def model_card(
    resolved: Resolved,
    provenance: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    metrics: Mapping[str, Any] | None = None,
    account: Account | None = None,
) -> str:
    """Markdown with the front matter model hubs read.

    Args:
        rows: of the training's log. metrics: of an evaluation. Both are computed from the data, and cards are made
            to be published: those of a run with a `privacy:` block leave them out.
        account: what such a run has spent.
    """
    recipe = resolved.recipe
    private = recipe.privacy is not None
    fingerprint = provenance.get("data_fingerprint")
    draws = families.module_class(recipe.family).draws_samples
    lines = [
        "---",
        "library_name: gentool",
        f"tags: [generative, {recipe.family}]",
        f"datasets: [{recipe.data.name}]",
        "---",
        f"# {resolved.name}",
        "",
        recipe.description or f"A `{recipe.family}` model of `{recipe.data.name}`.",
        "",
        f"- family: `{recipe.family}`, seed {recipe.seed}, {provenance.get('steps', 0)} steps",
        f"- data: `{recipe.data.name}`"
        + ("" if private or not fingerprint else f", fingerprint `{fingerprint}`"),
        f"- made by gentool {provenance.get('gentool')} ({provenance.get('git') or 'installed'}), "
        f"torch {provenance.get('versions', {}).get('torch')}",
    ]
    if rows and not private:
        lines.append(f"- training loss at the end: {rows[-1]['loss']:.5g}")
    if metrics and not private:
        lines += ["", "## Evaluation", ""]
        lines += [f"- {name}: {value:.5g}" for name, value in metrics["metrics"].items()]
        if metrics["features"]:
            lines.append(
                f"- features `{metrics['features']}`, reference `{metrics['reference']}`, "
                f"{metrics['count']} samples"
            )
        elif metrics["reference"]:
            lines.append(f"- reference `{metrics['reference']}`, {metrics['count']} examples")
    lines += [
        "",
        "## Privacy",
        "",
        *privacy_lines(
            account, public_base=recipe.privacy is not None and recipe.privacy.pretrained == "public"
        ),
        "",
        "## Use",
        "",
        "    gentool sample THIS_FOLDER -n 64 -o samples.png"
        if draws
        else "    gentool evaluate THIS_FOLDER",
        "",
    ]
    return "\n".join(lines)


def account_of_run(run: RunFolder, resolved: Resolved) -> Account | None:
    """What a private run has spent; None for one that was trained without a `privacy:` block.

    Raises:
        UserError: it was trained with one, and its ledger is missing or tells nothing.
        CorruptError: the ledger is damaged, or another training's.
    """
    if resolved.recipe.privacy is None:
        if run.ledger.is_file():
            raise CorruptError(
                "the recipe beside it has no privacy: block: it is not of this run", str(run.ledger)
            )
        return None
    ledger = ledger_of(run)
    if ledger.plan is None:
        raise UserError(
            "the ledger states no plan: what the run was trained by is not known", str(run.ledger)
        )
    return account_of(ledger, ledger.plan)


def privacy_lines(account: Account | None, public_base: bool = False) -> list[str]:
    """What is promised to the people in the data, and what is not.

    Args:
        public_base: the run that training started from was stated to have learned from other, public data.
    """
    if account is None:
        return ["Trained without differential privacy: samples and weights may reveal training examples."]
    if account.not_private is not None:
        return [f"**NOT PRIVATE**: {account.not_private}. Samples and weights may reveal training examples."]
    spent = account.spent
    return [
        f"Trained with differential privacy: **epsilon {rounded_up(spent.epsilon, 4)} at delta {spent.delta:g}** "
        f"({account.accountant.title}; `ledger.jsonl` has every step).",
        "",
        f"- unit: {statement.UNIT}",
        f"- neighbours: {statement.ADJACENCY}",
        f"- sampling: {statement.sampling(account.phases)}",
        *(
            f"- {phase.steps} releases with noise multiplier {phase.mechanism.noise_multiplier:.6g} "
            f"at sample rate {phase.mechanism.sample_rate:.6g}"
            for phase in account.phases
        ),
        f"- not covered: {'; '.join(statement.NOT_COVERED)}",
        *(f"- {note}" for note in account.remarks),
        *(
            ["- taken as stated: the model that training started from learned from public data"]
            if public_base
            else []
        ),
        "",
        "Loss curves, metrics and the data's fingerprint are computed from the data and not accounted for: "
        "they are left out here.",
    ]
