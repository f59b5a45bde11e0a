"""Which of a cache's declared fields the model reads."""

from __future__ import annotations

from cache import Cache, CacheError
from cache.format.fields import Field, Rate, Times


def audio_of(cache: Cache) -> list[Field]:
    """The fields of the sound, (T, D) each, in the order they are declared; CacheError for none."""
    found = [field for field in cache.fields.values() if field.has_steps and len(field.shape) == 2]
    if not found:
        raise CacheError(f"{cache.path}: no audio field (steps, features) that has a rate")
    return found


def rate_of(cache: Cache) -> Rate:
    """When the steps of the sound's fields are."""
    clock = audio_of(cache)[0].clock
    assert isinstance(clock, Rate)
    return clock


def maps_of(cache: Cache) -> tuple[Field, str]:
    """The feature maps, float16 (F, C, S, S), and the field of their times; CacheError for none."""
    for field in cache.fields.values():
        shape, clock = field.shape, field.clock
        square = len(shape) == 4 and shape[2] == shape[3] and field.dtype == "float16"
        if square and field.stream == "video" and isinstance(clock, Times):
            return field, clock.times
    raise CacheError(f"{cache.path}: no video field of float16 maps (frames, channels, side, side)")
