"""The weights that training starts from: of a run of this family, or of a plain transformer in timm's names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.families.a_vit.model import AdaptiveViT
from gentool.networks.vit import positions_for
from gentool.runs.folder import RunFolder
from gentool.runs.weights import load_weights

KEY = "model.start"
HEAD = ("output.weight", "output.bias")
"""What is left at random where the classes are others."""


def load_start(source: str, model: AdaptiveViT) -> tuple[list[str], float | None]:
    """Puts the weights into the network; returns notices of what was made to fit, and the center of their gate.

    Raises:
        UserError: there are no such weights, or they are of another network: names the first tensor that differs.
        CorruptError: they cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        run = RunFolder.open(path)
        tensors, metadata = load_weights(run.require_weights())
        if metadata.get("family") != "a-vit":
            raise UserError(
                f"{source} is a run of the family {metadata.get('family')}; it takes one of a-vit, such as "
                "gentool train a-vit/digits-dense-small",
                KEY,
            )
    elif path.is_file():
        tensors = load_weights(path)[0]
        named = _joined({_own_name(name): tensor for name, tensor in tensors.items()})
        tensors = {f"network.{name}": tensor for name, tensor in named.items()}
    else:
        raise UserError(f"no such run folder or .safetensors file: {source}", KEY)
    network = {
        name.removeprefix("network."): tensor
        for name, tensor in tensors.items()
        if name.startswith("network.")
    }
    notices = fitted(network, model)
    center = float(tensors["gate.center"]) if "gate.center" in tensors else None
    kind = "the plain transformer" if center is None else "the network, whose tokens halt already,"
    notices.insert(0, f"starting from {kind} in {source}")
    return notices, center


def _own_name(name: str) -> str:
    return name.replace("head.", "output.", 1) if name.startswith("head.") else name


def _joined(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The two heads of a distilled transformer, in timm's names, as one."""
    parts = {f"output.{kind}": tensors.pop(f"head_dist.{kind}", None) for kind in ("weight", "bias")}
    for name, part in parts.items():
        if part is not None and name in tensors:
            tensors[name] = torch.cat([tensors[name], part], -1)
    return tensors


def fitted(tensors: dict[str, Tensor], model: AdaptiveViT) -> list[str]:
    """Loads the network's tensors; positions of another size are interpolated, a head of other classes left out."""
    own, notices = model.network.state_dict(), []
    tensors = dict(tensors)
    readers = model.network.readers
    if "dist_token" in own and "dist_token" not in tensors and "pos_embed" in tensors:
        tensors["dist_token"] = tensors["cls_token"]
        place = tensors["pos_embed"]
        tensors["pos_embed"] = torch.cat([place[:, :1], place], 1)
        notices.append("the distillation token starts as the class token")
        for name in HEAD:
            if name in tensors:
                tensors[name] = torch.cat([tensors[name]] * 2, -1)
    if "registers" in own and "registers" not in tensors:
        tensors["registers"] = own["registers"]
        notices.append("the registers are new")
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise UserError(
            f"has {unknown[0]} (and {len(unknown) - 1} more), which this network has not: check model.network"
            + (", whose distilled is false" if "dist_token" in unknown else ""),
            KEY,
        )
    missing = sorted(own.keys() - tensors.keys() - set(HEAD))
    if missing:
        raise UserError(f"lacks {missing[0]}: it is of another network than model.network", KEY)
    if any(name not in tensors or tensors[name].shape != own[name].shape for name in HEAD):
        found = len(tensors[HEAD[0]]) if HEAD[0] in tensors else 0
        notices.append(f"its head tells {found} classes apart, the data have {len(own[HEAD[0]])}: a new head")
        tensors |= {name: own[name] for name in HEAD}
    positions = tensors["pos_embed"]
    if positions.shape[1] != own["pos_embed"].shape[1] and positions.shape[2] == own["pos_embed"].shape[2]:
        try:
            tensors["pos_embed"] = positions_for(model.network.grid, positions, readers)
        except ValueError as error:
            raise UserError(f"its positions cannot be brought to this picture size: {error}", KEY) from None
        rows, columns = model.network.grid
        notices.append(
            f"its {positions.shape[1] - readers} positions were interpolated to the {rows}x{columns} of these pictures"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"its {name} is {tuple(tensor.shape)}, that of model.network {tuple(own[name].shape)}", KEY
            )
    nn.Module.load_state_dict(model.network, tensors)
    return notices
