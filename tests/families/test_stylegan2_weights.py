"""Weights of published networks: what loads as it is, what is renamed, what is refused and why."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gentool.errors import CorruptError, UserError
from gentool.families.stylegan2.weights import check_generator, load_into, mean_w
from gentool.networks.stylegan2 import Generator
from gentool.networks.stylegan2_config import StyleDiscriminator, StyleGenerator
from gentool.networks.stylegan2_discriminator import Discriminator
from gentool.networks.upfirdn import fir_kernel
from gentool.runs.weights import load_weights
from gentool.tasks.train import train

TINY = StyleGenerator(latent=6, style=5, layers=2, channel_base=64, channel_max=8)
KEY = "model.weights"
RUN = (
    "stylegan2/digits8-small",
    "data.batch_size=8",
    "model.network={latent: 6, style: 5, layers: 2, channel_base: 64, channel_max: 8}",
    "model.discriminator={channel_base: 64, channel_max: 8}",
    "trainer.max_steps=1",
)


def generator(seed: int = 0, channels: int = 3, size: int = 16) -> Generator:
    torch.manual_seed(seed)
    made = Generator(TINY, channels, size)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.normal_()
    made.mapping.w_avg.copy_(mean_w(made, 10_000))
    return made


def saved(path: Path, state: dict[str, Tensor]) -> str:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return str(path)


def same(first: Generator, second: Generator) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def as_port(model: Generator) -> dict[str, Tensor]:
    """The state dict of the same network in the layout of the PyTorch port, written down from its modules."""
    ours, theirs = model.state_dict(), {}
    for i in range(TINY.layers):
        for part in ("weight", "bias"):
            theirs[f"style.{i + 1}.{part}"] = ours[f"mapping.fc{i}.{part}"]
    theirs["input.input"] = ours["synthesis.b4.const"][None]
    layers = {"conv1": "b4.conv1", "convs.0": "b8.conv0", "convs.1": "b8.conv1"}
    layers |= {"convs.2": "b16.conv0", "convs.3": "b16.conv1"}
    for n, (new, old) in enumerate(layers.items()):
        theirs |= {
            f"{new}.conv.weight": ours[f"synthesis.{old}.weight"][None],
            f"{new}.conv.modulation.weight": ours[f"synthesis.{old}.affine.weight"],
            f"{new}.conv.modulation.bias": ours[f"synthesis.{old}.affine.bias"],
            f"{new}.noise.weight": ours[f"synthesis.{old}.noise_strength"].view(1),
            f"{new}.activate.bias": ours[f"synthesis.{old}.bias"],
            f"noises.noise_{n}": ours[f"synthesis.{old}.noise_const"][None, None],
        }
    theirs["convs.0.conv.blur.kernel"] = torch.ones(4, 4)
    for new, old in {"to_rgb1": "b4", "to_rgbs.0": "b8", "to_rgbs.1": "b16"}.items():
        theirs |= {
            f"{new}.conv.weight": ours[f"synthesis.{old}.torgb.weight"][None],
            f"{new}.conv.modulation.weight": ours[f"synthesis.{old}.torgb.affine.weight"],
            f"{new}.conv.modulation.bias": ours[f"synthesis.{old}.torgb.affine.bias"],
            f"{new}.bias": ours[f"synthesis.{old}.torgb.bias"].view(1, -1, 1, 1),
        }
    theirs["to_rgbs.0.upsample.kernel"] = torch.ones(4, 4)
    return theirs


def test_official_names_load_as_they_are(tmp_path: Path) -> None:
    made, other = generator(), generator(1)
    load_into(other, saved(tmp_path / "g.safetensors", made.state_dict()), KEY)
    assert same(made, other)
    torch.save({"G_ema": made.state_dict()}, tmp_path / "g.pt")
    third = generator(2)
    load_into(third, str(tmp_path / "g.pt"), KEY)
    assert same(made, third)


def test_filters_may_be_left_out_and_w_avg_is_then_estimated(tmp_path: Path) -> None:
    made, other = generator(), generator(1)
    state = {k: v for k, v in made.state_dict().items() if not k.endswith(("resample_filter", "w_avg"))}
    other.mapping.w_avg.zero_()
    load_into(other, saved(tmp_path / "g.safetensors", state), KEY)
    assert same(made, other)


@pytest.mark.parametrize("average", [False, True])
def test_the_ports_layout_is_renamed(average: bool, tmp_path: Path) -> None:
    made, other = generator(), generator(1)
    other.mapping.w_avg.zero_()
    whole = {"g_ema": as_port(made)}
    if average:
        whole["latent_avg"] = made.mapping.w_avg  # type: ignore[assignment]
    torch.save(whole, tmp_path / "port.pt")
    load_into(other, str(tmp_path / "port.pt"), KEY)
    assert same(made, other)


def test_the_discriminators_weights_load_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, other = (Discriminator(StyleDiscriminator(channel_base=64, channel_max=8), 3, 16) for _ in range(2))
    state = made.state_dict() | {
        "b16.resample_filter": fir_kernel()
    }  # official blocks keep one that they do not use
    load_into(other, saved(tmp_path / "d.safetensors", state), "model.discriminator_weights")
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(made(x), other(x))


def test_a_run_starts_from_the_files(tmp_path: Path) -> None:
    made = generator(3, channels=1, size=8)
    path = saved(tmp_path / "g.safetensors", made.state_dict())
    said: list[str] = []
    changes = (*RUN[1:], f"model.weights={path}", "ema={rule: constant, decay: 1.0}")
    run = train(RUN[0], changes, run_dir=tmp_path / "run", say=said.append).run
    found = load_weights(run / "model.safetensors")[0]
    parameters = {name for name, _ in made.named_parameters()}  # of buffers the average is a copy
    assert all(
        torch.equal(found[name], value) for name, value in made.state_dict().items() if name in parameters
    )


def test_a_pickle_is_refused_with_the_way_round_it(tmp_path: Path) -> None:
    """Whatever its name: the second is a .pt that would run code."""
    (tmp_path / "ffhq.pkl").write_bytes(pickle.dumps({"G_ema": 1}))
    with pytest.raises(
        UserError, match=r"expected \.safetensors or \.pt.*legacy\.load_network_pkl"
    ) as caught:
        load_into(generator(), str(tmp_path / "ffhq.pkl"), KEY)
    assert caught.value.where == KEY
    torch.save({"G_ema": Path("x")}, tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"more than tensors.*legacy\.load_network_pkl"):
        load_into(generator(), str(tmp_path / "code.pt"), KEY)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nosuch\.safetensors: no such file"):
        load_into(generator(), str(tmp_path / "nosuch.safetensors"), KEY)
    for name in ("bad.safetensors", "bad.pt"):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises((CorruptError, UserError)):
            load_into(generator(), str(tmp_path / name), KEY)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="expected tensors by name"):
        load_into(generator(), str(tmp_path / "list.pt"), KEY)


def test_another_network_is_told_by_its_first_differences(tmp_path: Path) -> None:
    state = generator().state_dict()
    state.pop("synthesis.b8.conv0.bias")
    state["synthesis.b4.const"] = torch.zeros(9, 4, 4)
    state["mapping.fc7.weight"] = torch.zeros(5, 5)
    state["synthesis.b8.resample_filter"] = torch.full((4, 4), 1 / 16)
    with pytest.raises(UserError) as caught:
        load_into(generator(), saved(tmp_path / "g.safetensors", state), KEY)
    for words in (
        "synthesis.b8.resample_filter is another than that of [1, 3, 3, 1]",
        "synthesis.b8.conv0.bias is missing",
        "mapping.fc7.weight is not the network's",
        "(and 1 more)",
    ):
        assert words in caught.value.message


def test_what_looks_wrong_with_weights_is_told() -> None:
    made = generator()
    with torch.no_grad():
        for block in ("b4", "b8", "b16"):
            made.get_submodule(f"synthesis.{block}.torgb").bias.zero_()
        made.get_submodule("synthesis.b4.torgb").weight.mul_(0.0)
        scale = 0.5 / made(torch.randn(50, 6)).std()
        for block in ("b8", "b16"):
            made.get_submodule(f"synthesis.{block}.torgb").weight.mul_(scale)
    assert check_generator(made) == []
    made.mapping.w_avg.mul_(1.5)
    assert [line.split(":")[0] for line in check_generator(made)] == ["w_avg lies 50% off the mean of w"]
    with torch.no_grad():
        for block in ("b8", "b16"):
            made.get_submodule(f"synthesis.{block}.torgb").weight.mul_(10)
    assert "standard deviation" in check_generator(made)[1]
