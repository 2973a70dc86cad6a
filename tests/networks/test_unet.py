"""How the U-Net wires its blocks."""

import math

import torch
from torch import nn

from gentool.networks.unet import EncoderLevel


class Plus(nn.Module):
    """Stands in for a block: adds a number, whatever the embedding."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x, emb=None):
        return x + self.number


def test_residual_encoder_averages_branch_and_pyramid_into_map_skip_and_running_input():
    level = EncoderLevel(Plus(1.0), Plus(10.0), [Plus(100.0)])
    h, side = torch.tensor([2.0]), torch.tensor([5.0])
    maps, running = level(h, side, None)
    joined = (3.0 + 15.0) / math.sqrt(2)
    torch.testing.assert_close(torch.cat(maps), torch.tensor([joined, joined + 100]))
    torch.testing.assert_close(running, torch.tensor([joined]))


def test_standard_encoder_leaves_the_running_input_alone():
    maps, running = EncoderLevel(Plus(1.0), None, [Plus(1.0), Plus(1.0)])(torch.zeros(1), torch.ones(1), None)
    assert torch.cat(maps).tolist() == [1, 2, 3]
    assert running.tolist() == [1]


def test_decoder_blocks_read_the_encoder_maps_last_first(small, batch):
    net = small("ncsnpp")
    written, read = [], []
    net.input.register_forward_hook(lambda module, args, out: written.append(out))
    for level in net.encoder.values():
        level.register_forward_hook(lambda module, args, out: written.extend(out[0]))
    for level in net.decoder.values():
        for block in level.blocks:
            block.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    net(**batch)
    assert len(read) == len(written) == 4
    for joined, skip in zip(read, reversed(written)):
        assert torch.equal(joined[:, -skip.shape[1] :], skip)
