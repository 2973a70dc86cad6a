"""The FID Inception V3: its architecture by known counts, and what weights files are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gentool.errors import CorruptError, UserError
from gentool.metrics.cache import Cache
from gentool.metrics.features import Workshop, make_extractor
from gentool.metrics.images import ImageArray
from gentool.metrics.inception import InceptionV3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights: enough for shapes and for loading."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    torch.manual_seed(0)
    save_file(InceptionV3().state_dict(), path)
    return path


def workshop(path: Path | None) -> Workshop:
    return Workshop(Cache(None), torch.device("cpu"), path)


def test_size_of_the_published_network() -> None:
    """27,161,264 parameters with 1,000 classes and the auxiliary head; 1,008 classes and no head here."""
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + 769 * 1000
    with torch.device("meta"):
        model = InceptionV3()
    assert sum(p.numel() for p in model.parameters()) == 27_161_264 - auxiliary - 2049 * 1000 + 2049 * 1008
    widths = {name: block(torch.empty(1, width, 17, 17, device="meta")).shape[1:] for name, block, width in (
        ("5d", model.Mixed_5d, 288), ("6a", model.Mixed_6a, 288), ("6e", model.Mixed_6e, 768),
        ("7a", model.Mixed_7a, 768), ("7c", model.Mixed_7c, 2048),
    )}  # fmt: skip
    assert widths == {
        "5d": (288, 17, 17), "6a": (768, 8, 8), "6e": (768, 17, 17), "7a": (1280, 8, 8), "7c": (2048, 17, 17)
    }  # fmt: skip


def test_features_from_a_local_file(
    weights: Path, train: ImageArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENTOOL_INCEPTION", str(weights))
    extractor = make_extractor("inception", train, workshop(None))
    x = next(iter(train))[0][:3]
    features, logits = extractor(x, True)
    assert features.shape == (3, 2048)
    assert logits is not None
    assert logits.shape == (3, 1008)
    assert features.isfinite().all()
    alone, nothing = extractor(x[1:2].expand(1, 3, 8, 8), False)  # grayscale is the same picture in RGB
    torch.testing.assert_close(alone, features[1:2], rtol=1e-4, atol=1e-5)
    assert nothing is None
    assert "SHA-256" in extractor.note


def test_other_files_are_refused(
    weights: Path, train: ImageArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENTOOL_INCEPTION", raising=False)
    foreign, pickle, torn = (tmp_path / name for name in ("foreign.safetensors", "w.pth", "torn.safetensors"))
    save_file({"a": torch.zeros(2)}, foreign)
    pickle.write_bytes(b"\x80\x04")
    torn.write_bytes(weights.read_bytes()[:5000])
    cases: list[tuple[Path | None, type[UserError] | type[CorruptError], str]] = [
        (None, UserError, "set GENTOOL_INCEPTION"),
        (tmp_path / "none.safetensors", UserError, "no such weights file"),
        (pickle, UserError, "from .safetensors alone"),
        (foreign, UserError, "Conv2d_1a_3x3.conv.weight is missing"),
        (torn, CorruptError, "not a whole safetensors file"),
    ]
    for path, error, match in cases:
        with pytest.raises(error, match=match):
            make_extractor("inception", train, workshop(path))
