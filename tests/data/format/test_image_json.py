"""The JSON member of a shard gives back what went in, with soft scores filled in."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from adaptive_ft.data.format.image_json import decode_image, encode_image
from adaptive_ft.data.records import ImageRecord, Question


def test_round_trip(make_image: Callable[..., ImageRecord]) -> None:
    given = Question(7, 'Où est "le chat"?', "where", "other", (), {"t shirt": 0.3})
    record = replace(make_image(1, boxes=3), questions=(*make_image(1).questions, given))
    image = decode_image(encode_image(record, "float16"))
    assert (image.image_id, image.width, image.height) == ("img001", 100, 50)
    assert (image.num_boxes, image.feature_dim, image.feature_dtype) == (3, 5, "float16")
    assert image.questions[-1] == given
    assert image.questions[0] == replace(record.questions[0], scores={"red": 1.0, "blue": 0.3})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"features": 3}', b'\xff"'])
def test_damage_raises_what_the_reader_catches(content: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode_image(content)
