"""One set of images seen through one extractor, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.cache import Cache
from gentool.metrics.catalog import Need
from gentool.metrics.features import Extractor
from gentool.metrics.images import Images
from gentool.metrics.moments import Gaussian, Moments

Progress = Callable[[str, int, int], None]
"""(what is being read, images done, images in all)."""


@dataclass(frozen=True)
class FeatureSet:
    """What one pass over `images` gathered.

    Attributes:
        levels: the smallest and the largest pixel; (255, 0) for vectors and clouds.
        found: what the metrics declared that they read; anything else was not kept.
    """

    images: Images
    levels: tuple[int, int]
    found: Mapping[str, Any]

    def _get(self, what: str) -> Any:
        if what not in self.found:
            raise LookupError(
                f"{what} of {self.images.name} were not gathered: the metric must name them in its `needs`"
            )
        return self.found[what]

    @property
    def name(self) -> str:
        return self.images.name

    @property
    def moments(self) -> Gaussian:
        """Mean and covariance of the features, float64."""
        return self._get("moments")

    @property
    def features(self) -> Tensor:
        """(N, d) float32."""
        return self._get("features")

    @property
    def clouds(self) -> Tensor:
        """(N, 3 P) float32, the points of a cloud one after the other."""
        return self._get("clouds")

    @property
    def logits(self) -> Tensor:
        """(N, K) float32."""
        return self._get("logits")

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self._get("labels")


def look(
    images: Images,
    extractor: Extractor,
    needs: Collection[Need],
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Gathers what `needs` names, in one pass over `images`.

    Moments alone take memory of the order d^2 whatever the number of images; features are kept only when a
    metric reads them all. With a `cache` both are looked up there first, and kept there.

    Raises:
        UserError: an image of another shape or type than the set's, or a feature that is NaN or infinite.
    """
    cache = cache or Cache(None)
    classify = not {"probabilities", "classes"}.isdisjoint(needs)
    data = images.fingerprint if cache.folder else ""
    stored = [what for what in ("moments", "features") if what in needs]

    def key(what: str) -> dict[str, Any]:
        return {
            "kind": what,
            "data": data,
            "count": len(images),
            "extractor": extractor.identity,
            "format": 1,
        }

    if stored and not classify and "labels" not in needs:
        hits = [cache.load(key(what)) for what in stored]
        if None not in hits:
            return _recall(images, [hit for hit in hits if hit is not None], extractor.device)

    dim, device = extractor.dim, extractor.device
    moments = Moments(dim, compute_with_cache=False).to(device) if "moments" in needs else None
    whole = not {"features", "clouds"}.isdisjoint(needs)
    features = torch.empty(len(images), dim, device=device) if whole else None
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    low, high, done = 255, 0, 0
    dtype = torch.uint8 if len(images.shape) == 3 else torch.float32
    for x, label in images:
        stop = done + len(x)
        if x.dtype != dtype or tuple(x.shape[1:]) != images.shape or stop > len(images):
            raise UserError(
                f"image {done} is {x.dtype} {tuple(x.shape[1:])}; "
                f"expected {len(images)} of {str(dtype).removeprefix('torch.')} {images.shape}",
                images.name,
            )
        if dtype == torch.uint8:
            low, high = min(low, int(x.min())), max(high, int(x.max()))
        if moments is not None or features is not None or classify:
            seen, said = extractor(x, classify)
            if not seen.isfinite().all():
                raise UserError(
                    f"the extractor {extractor.name!r} gave a NaN or infinite feature "
                    f"among images {done} to {stop - 1}",
                    images.name,
                )
            if moments is not None:
                moments.update(seen)
            if features is not None:
                features[done:stop] = seen
            if said is not None:
                logits.append(said.float().cpu())
        if label is not None and "labels" in needs:
            labels.append(label)
        done = stop
        if progress is not None:
            progress(images.name, done, len(images))
    if done != len(images):
        raise UserError(f"holds {done} images but says {len(images)}", images.name)

    found: dict[str, Any] = {}
    record = {"levels": [low, high]}
    if moments is not None:
        found["moments"] = gaussian = moments.compute()
        cache.save(key("moments"), {"mean": gaussian.mean, "covariance": gaussian.covariance}, record)
    if features is not None and "clouds" in needs:
        found["clouds"] = features  # as large as the data themselves: not kept a second time
    elif features is not None:
        found["features"] = features
        cache.save(key("features"), {"features": features}, record)
    if logits:
        found["logits"] = torch.cat(logits)
    if labels:
        found["labels"] = torch.cat(labels)
    return FeatureSet(images, (low, high), found)


def _recall(
    images: Images, hits: list[tuple[dict[str, Tensor], dict[str, Any]]], device: torch.device
) -> FeatureSet:
    """The set as the cache has it."""
    tensors = {name: tensor.to(device) for kept, _ in hits for name, tensor in kept.items()}
    found: dict[str, Any] = {}
    if "mean" in tensors:
        found["moments"] = Gaussian(len(images), tensors["mean"], tensors["covariance"])
    if "features" in tensors:
        found["features"] = tensors["features"]
    low, high = hits[0][1]["levels"]
    return FeatureSet(images, (low, high), found)
