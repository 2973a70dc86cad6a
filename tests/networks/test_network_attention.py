"""Self-attention against torch's, and perturbed attention as guidance wants it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gentool.errors import UserError
from gentool.networks.attention import SelfAttention, attend, attention_layers, perturb


def test_attention_equals_torch_multihead_attention():
    ours, peer = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    peer.in_proj_weight.data, peer.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    peer.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x), peer(x, x, x, need_weights=False)[0])


def test_plain_formula_equals_the_fused_kernel():
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    torch.testing.assert_close(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_identity_map_equals_attention_with_a_huge_diagonal():
    layer = SelfAttention(16, 2).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    v = layer.qkv(x)[..., 32:]
    expected = layer.proj((1e6 * torch.eye(5, dtype=torch.float64)).softmax(-1) @ v)
    with perturb(layer_in(layer), ["layer"]):
        torch.testing.assert_close(layer(x), expected)
    assert (layer(x) - expected).abs().max() > 1e-3


def test_identical_tokens_leave_nothing_to_perturb():
    layer = SelfAttention(16, 2).double()
    x = torch.randn(2, 1, 16, dtype=torch.float64).expand(2, 7, 16)
    plain = layer(x)
    with perturb(layer_in(layer), ["layer"]):
        torch.testing.assert_close(layer(x), plain)


def layer_in(layer: nn.Module) -> nn.Module:
    model = nn.Module()
    model.layer = layer
    return model


def test_layers_are_named_by_resolution(small):
    assert list(attention_layers(small("ddpmpp"))) == [
        "encoder.4x4.blocks.0.attention",
        "middle.0.attention",
        "decoder.4x4.blocks.1.attention",
    ]
    assert list(attention_layers(small("adm"))) == [
        "encoder.4x4.blocks.0.attention",
        "middle.0.attention",
        "decoder.4x4.blocks.0.attention",
        "decoder.4x4.blocks.1.attention",
    ]
    assert list(attention_layers(small("dit"))) == ["blocks.0.attention", "blocks.1.attention"]


def test_perturb_changes_the_chosen_layers_within_the_context_only(small, batch):
    net = small("adm")
    plain = net(**batch)
    with perturb(net, ["middle"]):
        assert [name for name, layer in attention_layers(net).items() if layer.identity] == [
            "middle.0.attention"
        ]
        middle = net(**batch)
        with perturb(net, ["middle.0.attention", "decoder"]):
            more = net(**batch)
        torch.testing.assert_close(net(**batch), middle, rtol=0, atol=0)
    torch.testing.assert_close(net(**batch), plain, rtol=0, atol=0)
    assert (middle - plain).abs().max() > 1e-6
    assert (more - middle).abs().max() > 1e-6


def test_an_error_inside_the_context_restores_the_layers(small):
    net = small("dit")
    with pytest.raises(RuntimeError), perturb(net, ["blocks.0"]):
        raise RuntimeError
    assert not any(layer.identity for layer in attention_layers(net).values())


def test_names_are_those_of_the_uncompiled_network(small):
    net = small("dit")
    assert list(attention_layers(torch.compile(net, backend="eager"))) == list(attention_layers(net))


def test_unknown_layers_and_networks_without_attention_are_refused(small):
    with (
        pytest.raises(
            UserError, match=r"did you mean middle\.0\.attention.*encoder\.4x4\.blocks\.0\.attention"
        ),
        perturb(small("ddpmpp"), ["middle.1.attention"]),
    ):
        pass
    with pytest.raises(UserError, match="none"), perturb(small("mlp"), ["blocks.0"]):
        pass
