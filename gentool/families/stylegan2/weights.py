"""Weights of published networks, from files that run no code.

The official layout is that of this family's own networks. A second one is common, that of a popular PyTorch port (keys
`style.1.weight`, `convs.0.conv.weight` ...), and is renamed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gentool.errors import CorruptError, UserError
from gentool.networks.stylegan2 import Generator
from gentool.networks.upfirdn import fir_kernel

CONVERT = (
    "a network pickle is a program that runs when it is read, so gentool never does. Convert it once, in a checkout of "
    "the authors' stylegan2-ada-pytorch that you trust: load it there by legacy.load_network_pkl(file)['G_ema'], and "
    "write its state_dict() by safetensors.torch.save_file (docs/stylegan2.md has the lines)"
)
FILTER = "resample_filter"
ESTIMATED = 10_000
"""Latents that the mean of w is estimated from where a file has none."""


def load_into(network: nn.Module, path: str, key: str) -> None:
    """The file's weights into the network: all of them, and no others.

    Args:
        key: of the recipe, for messages.

    Raises:
        UserError: no such file, a pickle, or weights of another network. CorruptError: a damaged file.
    """
    state = read(Path(path), key)
    if "input.input" in state:
        state = dict(renamed(state))
    own = network.state_dict()
    if isinstance(network, Generator) and "mapping.w_avg" not in state and set(state) & set(own):
        state["mapping.w_avg"] = own["mapping.w_avg"]
    # the filter is a constant: some converters leave it out, and some layers keep it that never use it
    filters = {name: value for name, value in state.items() if name.endswith(FILTER)}
    state = {name: value for name, value in own.items() if name.endswith(FILTER)} | {
        name: value for name, value in state.items() if name not in filters
    }
    faults = [
        f"{name} is another than that of [1, 3, 3, 1]"
        for name, value in filters.items()
        if value.shape != (4, 4) or not torch.allclose(value.float(), fir_kernel())
    ]
    faults += [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not the network's" for name in state if name not in own]
    faults += [
        f"{name} is {tuple(state[name].shape)} there and {tuple(value.shape)} in the recipe's network"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if faults:
        rest = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise UserError(
            f"{path}: not the weights of this network: {'; '.join(faults[:3])}{rest}; set the widths, layers, classes "
            "and size of the recipe to those of the file",
            key,
        )
    network.load_state_dict(state)
    if isinstance(network, Generator) and not network.mapping.w_avg.any():
        network.mapping.w_avg.copy_(mean_w(network, ESTIMATED))


def read(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt one that holds nothing but tensors.

    Raises:
        UserError: no such file, or a kind that is not read. CorruptError: a damaged file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file", key)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CorruptError(f"not a whole safetensors file: {error}", str(path)) from None
    if path.suffix != ".pt":
        raise UserError(
            f"{path}: expected .safetensors or .pt{'; ' + CONVERT if path.suffix == '.pkl' else ''}", key
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds more than tensors; {CONVERT}", key) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise CorruptError(f"cannot be read: {str(error).splitlines()[0]}", str(path)) from None
    for name in ("g_ema", "G_ema"):
        if isinstance(found, dict) and name in found:
            average = found.get("latent_avg")
            found = found[name] | ({} if average is None else {"latent_avg": average})
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path}: expected tensors by name, or such a dictionary under g_ema", key)
    return found


PORT = (
    (r"style\.(\d+)\.(weight|bias)", lambda m: f"mapping.fc{int(m[1]) - 1}.{m[2]}"),
    (r"latent_avg", lambda m: "mapping.w_avg"),
    (r"input\.input", lambda m: "synthesis.b4.const"),
    (r"conv1\.(.+)", lambda m: f"synthesis.b4.conv1.{m[1]}"),
    (r"convs\.(\d+)\.(.+)", lambda m: f"synthesis.b{8 << int(m[1]) // 2}.conv{int(m[1]) % 2}.{m[2]}"),
    (r"to_rgb1\.(.+)", lambda m: f"synthesis.b4.torgb.{m[1]}"),
    (r"to_rgbs\.(\d+)\.(.+)", lambda m: f"synthesis.b{8 << int(m[1])}.torgb.{m[2]}"),
    (r"noises\.noise_0", lambda m: "synthesis.b4.conv1.noise_const"),
    (
        r"noises\.noise_(\d+)",
        lambda m: f"synthesis.b{8 << (int(m[1]) - 1) // 2}.conv{(int(m[1]) - 1) % 2}.noise_const",
    ),
)
WITHIN = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
}
"""Names inside a layer of the port, and here."""


def renamed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """A generator's weights in the port's layout, under the official names and in their shapes."""
    for name, value in state.items():
        if name.endswith(".kernel"):
            continue
        ours = next((say(m) for pattern, say in PORT if (m := re.fullmatch(pattern, name))), name)
        for old, new in WITHIN.items():
            if ours.endswith(f".{old}"):
                ours = ours.removesuffix(old) + new
                break
        if ours.endswith((".const", ".noise_const")) or re.fullmatch(
            r"synthesis\..*(conv.|torgb)\.weight", ours
        ):
            value = value.reshape(value.shape[1:] if ".noise" not in ours else value.shape[2:])
        elif ours.endswith((".noise_strength", "torgb.bias", "w_avg")):
            value = value.squeeze() if ours.endswith("noise_strength") else value.flatten()
        yield ours, value


@torch.no_grad()
def mean_w(model: Generator, count: int) -> Tensor:
    """(style,) mean of w over latents, and over classes; the same at each call."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(count, model.latent, generator=rng).to(model.mapping.w_avg)
    label = torch.arange(count, device=z.device) % model.classes if model.classes else None
    return model.mapping(z, label).mean(0)


@torch.no_grad()
def check_generator(model: Generator) -> list[str]:
    """What looks wrong with loaded weights: w_avg far from the mean of w, pictures without contrast or out of range."""
    found = []
    mean = mean_w(model, ESTIMATED)
    distance = float((model.mapping.w_avg - mean).norm() / mean.norm().clamp(min=1e-8))
    if distance > 0.1:
        found.append(f"w_avg lies {distance:.0%} off the mean of w: truncation will lead astray")
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(4, model.latent, generator=rng).to(mean)
    label = torch.arange(4, device=z.device) % model.classes if model.classes else None
    std = float(model(z, label).std())
    if not 0.2 <= std <= 1:
        found.append(f"the pictures' standard deviation is {std:.3g}, where 0.2 to 1 is expected")
    return found
