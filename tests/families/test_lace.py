"""LACE's classifiers: labels from all three sources, what is masked, what is held, and refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from gentool import families
from gentool.data import open_set
from gentool.errors import RecipeError, UserError
from gentool.families.lace.control import Anchors, Before, Target, lead
from gentool.families.lace.energy import Operators, discrete
from gentool.families.lace.formula import parse
from gentool.families.lace.module import LaceModule
from gentool.families.lace.network import LatentClassifier, masked_losses
from gentool.families.lace.samplers import Settings
from gentool.noise import Noise
from gentool.recipes.resolve import resolve_text
from gentool.tasks.edit.lace_leading import How, moved_layers, rendered_edits, weighted
from gentool.tasks.model.build import build_module
from gentool.training.sampling import SampleRequest

SLANT = "slant: {source: measure, measure: slant}"
THICK = "thick: {source: measure, measure: thickness, above: 0.5}"


def made(
    attributes: str,
    more: str = "latents: 300",
    said: list[str] | None = None,
    base: str = "stylegan2/digits8-small",
) -> LaceModule:
    text = f"family: lace\ndata: {{name: digits, limit: 200}}\nbase: {base}\nema: null\n"
    text += f"model: {{attributes: {{{attributes}}}, {more}}}\n"
    recipe = resolve_text(text, "case", families.recipe_schema).recipe
    data = open_set(recipe.data, "train")
    module = build_module(recipe, data.spec)
    assert isinstance(module, LaceModule)
    if said is not None:
        module.say = said.append
    module.fit_to_data(data)
    return module.eval()


def test_the_published_network() -> None:
    """512 -> 384 -> 256 -> 128 and the heads."""
    model = LatentClassifier(512, 4, 128, {"glasses": 2, "yaw": 1})
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(384, 512), (256, 384), (128, 256), (2, 128), (1, 128)]


def test_missing_labels_are_masked_head_by_head() -> None:
    outputs = {"a": torch.randn(3, 4, requires_grad=True), "b": torch.randn(3, 1, requires_grad=True)}
    labels = {"a": torch.tensor([2.0, -1, 0]), "b": torch.tensor([-1.0, 0.5, 0.25])}
    losses = masked_losses(outputs, labels)
    assert float(losses[1].detach()) == pytest.approx(
        float((outputs["b"][1, 0].detach() - 0.5) ** 2 / 2), rel=1e-5
    )
    assert float(losses[0].detach()) == pytest.approx(
        float(-outputs["a"][0].detach().log_softmax(0)[2]), rel=1e-5
    )
    losses.sum().backward()
    assert outputs["a"].grad is not None
    assert outputs["b"].grad is not None
    assert outputs["a"].grad[1].abs().max() == 0
    assert outputs["b"].grad[0].abs().max() == 0
    assert outputs["a"].grad[2].abs().min() > 0


def test_labels_are_those_of_the_generators_own_samples() -> None:
    """Latent i is sample i's; a measure is scaled by its percentiles over the data, and cut there."""
    module = made(f"{SLANT}, {THICK}")
    w, known = module.labelled()
    z = Noise(0, range(5), (64,)).normal("prior")
    torch.testing.assert_close(w[:5], module.generator.map(z, None))
    assert set(known["thick"].tolist()) <= {0.0, 1.0}
    assert 0 <= float(known["slant"].min()) <= float(known["slant"].max()) <= 1
    low, high = module.model.ranges[0].tolist()
    assert -1 < low < 0 < high < 1
    pictures = module.generator.pictures(w[:5])
    torch.testing.assert_close(module.read("slant", pictures), known["slant"][:5])


def test_what_is_excluded_is_not_learnt() -> None:
    said: list[str] = []
    module = made(f"{SLANT}, {THICK}", 'latents: 300, exclude: "thick and slant=1"', said)
    w, known = module.labelled()
    whole = made(f"{SLANT}, {THICK}").labelled()[1]
    left_out = (whole["thick"] == 1) & (whole["slant"] > 0.5)
    assert len(w) == 300 - int(left_out.sum()) < 300
    assert not ((known["thick"] == 1) & (known["slant"] > 0.5)).any()
    assert any("latents are left out" in line for line in said)


def test_a_table_of_labels(tmp_path: Path) -> None:
    """By sample number, classes by name or number; what is empty, None, -1 or no class is missing, and counted."""
    path = tmp_path / "labels.csv"
    rows = [
        "index,mood,age",
        "0,happy,20",
        "1,1,70",
        "2,None,",
        "3,puzzled,abc",
        "7,-1,45",
        "4,sad,45",
        "999,sad,1",
    ]
    path.write_text("\n".join(rows) + "\n")
    said: list[str] = []
    module = made(
        f"mood: {{source: table, path: '{path}', classes: [sad, happy]}}, "
        f"years: {{source: table, path: '{path}', column: age}}",
        "latents: 10",
        said,
    )
    _, known = module.labelled()
    assert known["mood"].tolist() == [1, 1, -1, -1, 0, -1, -1, -1, -1, -1]
    years = known["years"]
    assert (years[[2, 3, 5, 6]] == -1).all()
    assert float(years[0]) == 0
    assert float(years[1]) == 1
    assert 0.4 < float(years[4]) < 0.6
    assert any("3 of 7 labels of mood are missing" in line for line in said)
    assert module.attributes()["years"].low == pytest.approx(20, abs=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index,age\nx,3\n", "labels.csv:2: expected the number of a sample, not 'x'"),
        ("number,age\n1,3\n", "has no column 'index' (there are: number, age)"),
        ("index,size\n1,3\n", "has no column 'age'"),
        ("index,age\n1,3\n2,3\n", "does not vary"),
    ],
)
def test_a_table_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        made(f"age: {{source: table, path: '{path}'}}")
    assert words in str(caught.value)


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"nosuch\.csv: cannot be read"):
        made("age: {source: table, path: nosuch.csv}")


def test_one_class_alone_is_refused_and_few_of_one_are_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("index,mood\n" + "\n".join(f"{i},happy" for i in range(100)))
    attribute = f"mood: {{source: table, path: '{path}', classes: [sad, happy]}}"
    with pytest.raises(
        UserError, match=r"model\.attributes\.mood: one class alone is there \(sad: 0, happy: 100\)"
    ):
        made(attribute).labelled()
    path.write_text("index,mood\n" + "\n".join(f"{i},{'sad' if i < 3 else 'happy'}" for i in range(100)))
    said: list[str] = []
    made(attribute, said=said).labelled()
    assert "mood: sad: 3, happy: 97; warning: fewer than 50 of sad" in said
    path.write_text("index,mood\n" + "\n".join(f"{i},None" for i in range(100)))
    with pytest.raises(UserError, match="no labels at all"):
        made(attribute).labelled()


def test_a_labeller_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attributes\.digit\.run: it tells 10 classes apart, not 3"):
        made("digit: {source: classifier, run: classifier/digits-small, classes: [a, b, c]}").labelled()
    with pytest.raises(UserError, match="no classifier"):
        made("digit: {source: classifier, run: quickstart}").labelled()
    module = made("digit: {source: classifier, run: classifier/digits-small, min_confidence: 0.999}")
    assert (module.label(range(50))[1]["digit"] == -1).all()  # an untrained one is never that sure
    assert len(module.model.digests()["digit"]) == 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("attributes: {and: {source: measure, measure: ink}}", "a name that formulas can use"),
        ("attributes: {a b: {source: measure, measure: ink}}", "a name that formulas can use"),
        ("attributes: {}", "attributes"),
        ("attributes: {a: {source: measure, measure: size}}", "expected one of slant, thickness, ink"),
        ("attributes: {a: {source: guess}}", "source"),
        ("attributes: {a: {source: measure, measure: ink}}, truncation: 0.0", "above 0 and of at most 1"),
        ("attributes: {a: {source: measure, measure: ink}}, depth: 1", "of at least 2"),
    ],
)
def test_recipes_that_are_refused(change: str, words: str) -> None:
    text = f"family: lace\ndata: {{name: digits}}\nbase: stylegan2/digits8-small\nmodel: {{{change}}}\n"
    with pytest.raises(RecipeError) as caught:
        resolve_text(text, "case", families.recipe_schema)
    assert words in str(caught.value)


def test_generators_that_cannot_be_led() -> None:
    text = "family: lace\ndata: {{name: digits}}\nbase: {}\nmodel: {{attributes: {{{}}}{}}}\n"
    for base, more, words in (
        ("quickstart", "", "no generator of one Gaussian latent"),
        ("dp-sinkhorn/digits-small", ", truncation: 0.7", "no truncation"),
        ("stylegan2/digits8-small", ", exclude: digit=3", "unknown attribute 'digit'"),
    ):
        recipe = resolve_text(text.format(base, SLANT, more), "case", families.recipe_schema).recipe
        with pytest.raises(UserError, match=words):
            build_module(recipe, open_set(recipe.data, "train").spec)


def test_the_anchors_hold_the_latent_and_only_the_heads_that_are_not_edited() -> None:
    module = made(f"{SLANT}, {THICK}, ink: {{source: measure, measure: ink}}").requires_grad_(False)
    z = module.latents(1, range(4))
    node = parse("thick and slant=0.5", module.attributes())
    moved = z + 0.1 * torch.randn_like(z)

    def value(near: float, logits: float, at: torch.Tensor) -> torch.Tensor:
        before = Before.of(module, z, None)
        return Target(module, [(1.0, node)], Operators(), Anchors(near, logits), None, before)(at)

    free = Target(module, [(1.0, node)], Operators(), Anchors())(moved)
    w, held = module.generator.map(moved, None), Before.of(module, z, None)
    heads = module.heads(moved, w, None)
    apart = (moved - z).square().sum(1) + (w - held.w).square().sum(1)
    torch.testing.assert_close(value(0.5, 0, moved), free - 0.5 * apart)
    # `ink` is the one head that is not edited
    said = (heads["ink"] - held.heads["ink"]).square().sum(1)
    torch.testing.assert_close(value(0, 2, moved), free - 2 * said)
    torch.testing.assert_close(value(7, 3, z), value(0, 0, z))


def test_an_edited_attribute_is_not_held_under_another_name() -> None:
    """`thick` and `thickness` measure the same: leading one, the anchors let go of the other too."""
    module = made(f"{SLANT}, {THICK}, thickness: {{source: measure, measure: thickness}}")
    assert module.alike("thick") == module.alike("thickness") == {"thick", "thickness"}
    assert module.alike("slant") == {"slant"}
    z = module.requires_grad_(False).latents(1, range(4))
    moved = z + 0.1 * torch.randn_like(z)
    for formula, others in (("thickness=0.5", ["slant"]), ("slant=0.5", ["thick", "thickness"])):
        node, before = parse(formula, module.attributes()), Before.of(module, z, None)
        heads = module.heads(moved, module.generator.map(moved, None), None)
        held = sum((heads[name] - before.heads[name]).square().sum(1) for name in others)
        free, tied = (
            Target(module, [(1.0, node)], Operators(), Anchors(0, nu), None, before)(moved)
            for nu in (0.0, 2.0)
        )
        torch.testing.assert_close(free - tied, 2 * held)


@dataclass(frozen=True)
class Wells:
    """A density whose mode at 2 is true, and at -2 half true: log p of -4, and a slope towards it."""

    bound: float = 0.0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        u = z[:, 0]
        return torch.maximum(-((u - 2) ** 2), -4 - (u + 2) ** 2)

    def at(self, rows: torch.Tensor) -> Wells:
        return self


def test_from_the_posterior_the_ode_ends_at_its_modes_as_often_as_they_weigh() -> None:
    """From samples it ends at whichever is nearer."""
    rows = range(400)
    noise = Noise(0, rows, (1,), dtype=torch.float64)
    z = noise.normal("prior")

    def share(sampler: str) -> float:
        found = lead(Wells(), sampler, z, noise, Settings())  # type: ignore[arg-type]
        assert not found.failed.any()
        ends = found.z[:, 0]
        assert sampler == "rejection" or ((ends.abs() - 2).abs() < 0.05).all()
        return float((ends > 0).double().mean())

    u = torch.linspace(-12, 12, 100_001, dtype=torch.float64)[:, None]
    weight = (Wells()(u) - u[:, 0] ** 2 / 2).exp()
    expected = float(weight[u[:, 0] > 0].sum() / weight.sum())
    error = 3 * math.sqrt(expected * (1 - expected) / len(rows))
    assert share("rejection") == pytest.approx(expected, abs=error)
    assert share("rejection-ode") == pytest.approx(expected, abs=2 * error)
    assert share("ode") < expected - 0.2


def test_formulas_add_up_by_their_weights_and_so_do_their_bounds() -> None:
    """As published for edits one after the other: a tenth of those before, ten times the last where it is a number."""
    module = made(f"{SLANT}, {THICK}").requires_grad_(False)
    first, second = (parse(text, module.attributes()) for text in ("thick or slant=0.2", "slant=0.9"))
    z = module.latents(1, range(4))
    alone = [Target(module, [(1.0, node)], Operators(), Anchors(0, 0)) for node in (first, second)]
    parts = weighted(module, [first, second], True)
    assert [weight for weight, _ in parts] == [0.1, 10]
    both = Target(module, parts, Operators(), Anchors(0, 0))
    torch.testing.assert_close(both(z), 0.1 * alone[0](z) + 10 * alone[1](z))
    assert both.bound == pytest.approx(0.1 * math.log(21))
    assert [weight for weight, _ in weighted(module, [second, first], True)] == [0.1, 1]
    assert [weight for weight, _ in weighted(module, [second, first], False)] == [1, 1]


def test_layers_that_an_edit_does_not_move_keep_the_w_they_had() -> None:
    module = made(f"{SLANT}, {THICK}")
    a, b, c = latents = [module.latents(seed, range(3)) for seed in (1, 2, 3)]
    made_of = module.generator.map
    ws = made_of(a, None)[:, None].repeat(1, 4, 1)
    first, second, third = rendered_edits(module, latents, None, [{0, 1}, {1, 3}])
    torch.testing.assert_close(first, module.generator.pictures(made_of(a, None)))
    ws[:, :2] = made_of(b, None)[:, None]
    torch.testing.assert_close(second, module.generator.pictures(ws))
    ws[:, [1, 3]] = made_of(c, None)[:, None]
    torch.testing.assert_close(third, module.generator.pictures(ws))
    for whole in ([None, {0, 1, 2, 3}], [None, None]):
        torch.testing.assert_close(
            rendered_edits(module, latents, None, whole)[2], module.generator.pictures(made_of(c, None))
        )


def test_an_edit_moves_the_layers_of_all_attributes_that_lead_it() -> None:
    module = made(f"{SLANT}, {THICK}, ink: {{source: measure, measure: ink}}")
    nodes = [parse(text, module.attributes()) for text in ("thick", "slant=0.5")]
    layers = {"thick": (0, 1), "slant": (3,)}
    assert moved_layers(module, nodes, How(layers=layers)) == [{0, 1}, {0, 1, 3}]
    assert moved_layers(module, nodes, How(layers=layers, together=False)) == [{0, 1}, {3}]
    assert moved_layers(module, nodes, How(layers={"thick": (0,)})) == [{0}, None]
    assert moved_layers(module, nodes, How()) == [None, None]
    both = [parse("thick and slant=0.5", module.attributes())]
    for formulas, wanted, words in (
        (nodes, {"thik": (0,)}, "did you mean thick"),
        (nodes, {"ink": (0,)}, "ink: no formula asks for it"),
        (nodes, {"slant": (0,)}, "slant: .* beside attributes that change all layers"),
        (both, {"thick": (0,)}, "thick: .* name theirs too"),
        (nodes, {"thick": (2, 4)}, "layers are 0 to 3, not 4"),
    ):
        with pytest.raises(UserError, match=words):
            moved_layers(module, formulas, How(layers=wanted))
    flat = made(SLANT, base="dp-sinkhorn/digits-small")
    with pytest.raises(UserError, match="no layers that could take a w each"):
        moved_layers(flat, [parse("slant=1", flat.attributes())], How(layers={"slant": (0,)}))


CONDITIONAL = ("stylegan2/digits8-conditional-small", "dp-sinkhorn/digits-small")


@pytest.mark.parametrize("base", CONDITIONAL)
@pytest.mark.parametrize("space", ["w", "z"])
def test_a_conditional_generator_keeps_each_samples_class(base: str, space: str) -> None:
    """Latent i has class i % 10, as sample i of the generator; the classifiers read it, and leading leaves it."""
    module = made(SLANT, f"latents: 40, space: {space}", base=base).requires_grad_(False)
    z, label = module.latents(0, range(12)), module.held_labels(range(12))
    assert label is not None
    assert label.tolist() == [*range(10), 0, 1]
    request = SampleRequest(seed=0, indices=range(12), labels=label, settings=module.base.recipe.sample)
    w = module.generator.map(z, label)
    torch.testing.assert_close(
        module.generator.pictures(w), module.base.draw(request).x, atol=1e-5, rtol=1e-5
    )
    read, known = module.labelled()
    torch.testing.assert_close(read[:12], module.read_space(z, w, label))
    torch.testing.assert_close(known["slant"][:12], module.read("slant", module.generator.pictures(w)))
    other = (label + 1) % 10
    assert (module.generator.map(z, other) - w).abs().max() > 1e-4
    assert (
        module.heads(z, w, label)["slant"] - module.heads(z, module.generator.map(z, other), other)["slant"]
    ).abs().max() > 1e-6
    held = module.held_labels(range(3, 7), (2, 5))
    assert held is not None
    assert held.tolist() == [5, 2, 5, 2]


@pytest.mark.parametrize("sampler", ["ode", "rejection"])
def test_latents_of_a_conditional_generator_are_led_each_under_its_own_class(sampler: str) -> None:
    """Whatever the batch: rejection, which asks for some of them at a time, and with anchors, held to their own."""
    module = made(THICK, "latents: 100", base=CONDITIONAL[0]).requires_grad_(False)
    node, anchors = parse("thick", module.attributes()), Anchors(0.01, 0)

    def found(rows: range) -> torch.Tensor:
        z, label = module.latents(0, rows), module.held_labels(rows)
        target = Target(module, [(1.0, node)], Operators(), anchors, label, Before.of(module, z, label))
        return lead(target, sampler, z, Noise(0, rows, (64,)), Settings()).z

    whole = found(range(6))
    assert whole.isfinite().all()
    torch.testing.assert_close(found(range(4, 6)), whole[4:], rtol=1e-3, atol=1e-3)


def test_a_temperature_divides_the_logits_and_in_the_published_code_one_of_them() -> None:
    """There the gradient at a certain class is 1/T - 1, and in ours it vanishes."""
    logits = torch.tensor([[30.0, 0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    for code, expected in ((False, 0.0), (True, 1 / 0.7 - 1)):
        (found,) = torch.autograd.grad(discrete(logits, 0, 0.7, code=code).sum(), logits)
        assert float(found[0, 0]) == pytest.approx(expected, abs=1e-9)
    logits = logits.detach()
    assert float(discrete(logits, 1, 2.0)[0]) == pytest.approx(float((logits / 2).log_softmax(1)[0, 1]))
    assert torch.equal(discrete(logits, 1, code=True), discrete(logits, 1))
