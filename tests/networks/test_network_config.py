"""Configs are strict, described and free of torch; sizes that do not fit end with one clear message."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from gentool import networks
from gentool.errors import UserError
from gentool.networks.config import (
    AdmUNet,
    Cnn,
    DiT,
    FilmMLP,
    LogReg,
    Mlp,
    NetworkConfig,
    ResNet,
    SongUNet,
    Wrn,
)
from gentool.networks.vit_config import ViT

CONFIGS = [SongUNet, AdmUNet, DiT, FilmMLP, ResNet, LogReg, Mlp, Cnn, Wrn, ViT]


def test_configs_and_package_import_no_torch():
    code = "import sys, gentool.networks, gentool.networks.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_is_described(config):
    assert all(field.description for field in config.model_fields.values())


def test_the_name_chooses_the_config():
    parse = TypeAdapter(NetworkConfig).validate_json
    assert parse('{"name": "dit", "patch": 4}') == DiT(patch=4)
    assert parse('{"name": "song-unet", "mult": [1, 2]}') == SongUNet(mult=(1, 2))
    with pytest.raises(ValidationError, match="song-unet"):
        parse('{"name": "unet"}')


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "song-unet", "chanels": 8}',
        '{"name": "song-unet", "channels": 6}',
        '{"name": "song-unet", "mult": []}',
        '{"name": "song-unet", "dropout": 1.0}',
        '{"name": "dit", "width": 64, "heads": 6}',
        '{"name": "film-mlp", "blocks": 0}',
    ],
)
def test_impossible_settings_are_refused(text):
    with pytest.raises(ValidationError):
        TypeAdapter(NetworkConfig).validate_json(text)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (
            SongUNet(mult=(1, 2, 2, 2), attention=()),
            28,
            "28x28 cannot be halved 3 times: .* 1 or 2 or 3 entries",
        ),
        (SongUNet(mult=(1, 1, 1), attention=()), (8, 6), "1 or 2 entries instead of 3"),
        (SongUNet(attention=(16,)), 28, "attention at 16 never happens.*28, 14, 7"),
        (SongUNet(attention=()), (2,), "film-mlp"),
        (AdmUNet(channels=32, attention=(64,)), 64, "attention at 64x64 needs a multiple of 64"),
        (DiT(patch=3), 8, "patches of 3x3: `patch` can be 1, 2, 4, 8"),
        (DiT(), (2,), "film-mlp"),
    ],
)
def test_sizes_that_do_not_fit_are_user_errors(config, size, message):
    with pytest.raises(UserError, match=message):
        networks.build(config, 3, 3, size)
