"""drawings.py: what other tests rely on."""

from __future__ import annotations

import pytest
from drawings import KINDS, draw
from PIL import ImageChops


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_follows_from_kind_seed_and_size(kind):
    picture = draw(kind, 4_000_001, (321, 123))
    assert (picture.mode, picture.size) == ("RGB", (321, 123))
    assert picture.tobytes() == draw(kind, 4_000_001, (321, 123)).tobytes()
    assert picture.tobytes() != draw(kind, 4_000_002, (321, 123)).tobytes()


def test_cat_and_dog_of_one_seed_share_their_place_and_differ_in_the_middle():
    cat, dog = (draw(kind, 4_000_003, (200, 200)) for kind in KINDS)
    left, top, right, bottom = ImageChops.difference(cat, dog).getbbox()
    assert left > 0 and top > 0 and right < 200 and bottom < 200


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [("horse", (380, 380), "kind is 'horse'; it must be one of cat, dog"), ("cat", (0, 380), "size is 0x380")],
)
def test_a_wrong_argument_is_named(kind, size, message):
    with pytest.raises(ValueError, match=message):
        draw(kind, 1, size)
