"""What holds for every network: shapes, labels, augmentation labels, batches, transforms, precision."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from gentool import networks
from gentool.networks.config import FilmMLP

CLASSES = 3


def call(net, batch):
    return net(batch["x"], batch["c_noise"], batch["label"], batch["augment"])


def test_features_carry_the_output_and_what_it_is_made_from(small, kind, batch):
    net = small(kind)
    out, last, emb = net.features(**batch)
    torch.testing.assert_close(out, call(net, batch), rtol=0, atol=0)
    assert out.shape == batch["x"].shape
    assert last.shape == {"dit": (4, 16, 4, 4), "mlp": (4, 16)}.get(kind, (4, 8, 8, 8))
    assert emb.shape == (4, 16 if kind in ("dit", "mlp") else 32)
    if kind not in ("dit", "mlp"):
        torch.testing.assert_close(net.output(torch.nn.functional.silu(net.norm(last))), out)


def test_no_label_is_the_null_label_and_classes_differ(small, kind, batch):
    net = small(kind)
    x, c_noise = batch["x"][:1].repeat(CLASSES + 1, 1, 1, 1), batch["c_noise"][:1].repeat(CLASSES + 1)
    out = net(x, c_noise, torch.arange(CLASSES + 1))
    torch.testing.assert_close(out[-1:], net(x[:1], c_noise[:1]))
    assert all((out[i] - out[j]).abs().max() > 1e-3 for i in range(CLASSES + 1) for j in range(i))


def test_no_augmentation_label_is_zeros_and_others_matter(small, kind, batch):
    net = small(kind)
    zeros = net(**(batch | {"augment": torch.zeros(4, 9, dtype=torch.float64)}))
    torch.testing.assert_close(net(**(batch | {"augment": None})), zeros)
    assert (call(net, batch) - zeros).abs().max() > 1e-3


def test_labels_for_a_network_without_them_are_errors(small, kind, config, batch):
    net = small(kind, classes=0)
    with pytest.raises(ValueError, match="unconditional"):
        net(batch["x"], batch["c_noise"], batch["label"])
    bare = networks.build(config.model_copy(update={"augment": 0}), 2, 2, 8)
    with pytest.raises(ValueError, match="augment"):
        bare(batch["x"].float(), batch["c_noise"], None, batch["augment"])


def test_a_sample_does_not_see_its_batch(small, kind, batch):
    net = small(kind)
    alone = torch.cat([net(*(value[i : i + 1] for value in batch.values())) for i in range(4)])
    torch.testing.assert_close(alone, call(net, batch), rtol=1e-10, atol=1e-12)


def test_forward_keeps_no_state(small, kind, batch):
    net = small(kind)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = call(net, batch)
    torch.testing.assert_close(call(net, batch), first, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.filterwarnings("error:There is a performance drop")
def test_per_sample_gradients_by_vmap_equal_a_loop(small, kind, batch):
    net = small(kind)
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, *one):
        return functional_call(net, parameters, tuple(value[None] for value in one)).square().mean()

    together = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(parameters, *batch.values())
    for i in range(4):
        alone = grad(loss)(parameters, *(value[i] for value in batch.values()))
        for name in parameters:
            torch.testing.assert_close(together[name][i], alone[name], rtol=1e-8, atol=1e-10)


def test_derivatives_do_not_depend_on_the_layout_of_the_weights(small, kind, batch):
    """Loaded runs have their weights channels last, and samplers differentiate them forward."""
    net, rest = small(kind), (batch["label"], batch["augment"])
    x, c_noise = batch["x"], batch["c_noise"]
    tangents = (torch.ones_like(x), torch.ones_like(c_noise))
    want = jvp(lambda x, c: net(x, c, *rest), (x, c_noise), tangents)[1]
    net.to(memory_format=torch.channels_last)
    laid = x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
    found = jvp(lambda x, c: net(x, c, *rest), (laid, c_noise), tangents)[1]
    torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-10)


def test_jvp_equals_finite_differences_in_input_and_noise_level(small, kind, batch):
    net = small(kind)
    x, c_noise, rest = batch["x"], batch["c_noise"], (batch["label"], batch["augment"])
    v, w = torch.randn_like(x), torch.randn_like(c_noise)
    with torch.no_grad():
        _, tangent = jvp(lambda x, c: net(x, c, *rest), (x, c_noise), (v, w))
        h = 1e-5
        ends = [net(x + s * h * v, c_noise + s * h * w, *rest) for s in (1, -1)]
    torch.testing.assert_close(tangent, (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level(), torch.no_grad():
        dual = net(forward_ad.make_dual(x, v), forward_ad.make_dual(c_noise, w), *rest)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent)


def test_second_derivatives_exist(small, kind, batch):
    """d/dx of |d out / dx|^2 by two backward passes equals its finite difference along a direction."""
    net = small(kind)
    rest = (batch["c_noise"], batch["label"], batch["augment"])

    def gradient(x):
        return torch.autograd.grad(net(x, *rest).square().sum(), x, create_graph=True)[0]

    x = batch["x"].clone().requires_grad_()
    v = torch.randn_like(x)
    (product,) = torch.autograd.grad(gradient(x), x, v)
    h = 1e-5
    ends = [gradient((batch["x"] + s * h * v).requires_grad_()).detach() for s in (1, -1)]
    torch.testing.assert_close(product, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-6)


def test_bfloat16_autocast_stays_close_and_keeps_the_embedding_in_float32(small, kind, batch):
    net = small(kind).float()
    inputs = {k: v if v.dtype == torch.int64 else v.float() for k, v in batch.items()}
    exact = net.features(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net.features(**inputs)
    assert rough.out.dtype == torch.bfloat16
    torch.testing.assert_close(rough.emb, exact.emb)
    assert (rough.out.float() - exact.out).norm() / exact.out.norm() < 0.02


def test_shapes_that_are_not_square(small, kind):
    """Attention at 4 is at the finest level of 4x8: the shorter side counts."""
    net = small(kind, size=(4, 8))
    x = torch.randn(2, 2, 4, 8, dtype=torch.float64)
    assert net(x, torch.zeros(2, dtype=torch.float64)).shape == x.shape


def test_vectors_pass_through_the_mlp():
    net = networks.build(FilmMLP(width=16), 2, 1, (5,))
    assert net(torch.randn(3, 10), torch.randn(3)).shape == (3, 5)


def test_channels_last_gives_the_same_output(small, kind, batch):
    net = small(kind)
    expected = call(net, batch)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(call(net, batch), expected)


@pytest.mark.slow
def test_compiles_to_one_graph_with_the_same_output(small, batch):
    net = small("ddpmpp")
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(call(compiled, batch), call(net, batch))


def test_traces_to_one_graph_also_where_attention_is_fused(small, kind, batch):
    """On a device that is not the CPU the fused kernel is taken; meta stands in for one."""
    net = small(kind).to("meta")
    traced = torch.compile(net, fullgraph=True, backend="eager")
    assert traced(*(value.to("meta") for value in batch.values())).shape == batch["x"].shape
