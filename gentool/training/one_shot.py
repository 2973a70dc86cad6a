"""What a generator that makes a sample in one call leaves of the `sample:` block. No torch."""

from __future__ import annotations

from gentool.recipes.schema import Sample

ONE_SHOT = "one-shot"
"""What draws such samples, as results and file names tell it."""


def ignored(settings: Sample, own: frozenset[str]) -> tuple[str, str] | None:
    """The first key that would be ignored, and what to say of it; None where all is well.

    Args:
        own: keys of the block that are the family's own.
    """
    free = {"count", "batch_size", "presets", *own}
    for key, value in settings.model_dump(exclude=free, exclude_defaults=True).items():
        return key, f"a one-shot generator makes an image in one call and would ignore {value!r}"
    return None
