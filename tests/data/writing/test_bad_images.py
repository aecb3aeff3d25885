"""Bad images of a source: the first ends a conversion, or they are counted, told, and capped."""

import logging

import pytest

from adaptive_ft.data.writing.bad_images import LeaveOutBadImages, StopAtBadImage
from adaptive_ft.errors import UserError


def test_the_first_one_ends_it() -> None:
    with pytest.raises(UserError, match=r"^image 'a' is bad$"):
        StopAtBadImage().met("image 'a' is bad")


def test_they_are_left_out_up_to_a_share(caplog: pytest.LogCaptureFixture) -> None:
    bad = LeaveOutBadImages(0.2, most_images=10)
    with caplog.at_level(logging.WARNING):
        bad.met("image 'a' is bad")
        bad.met("image 'b' is bad")
    assert bad.left_out == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"Left out of the shards: image '{name}' is bad." for name in "ab"
    ]
    with pytest.raises(UserError, match=r"image 'c' is bad\. 3 of 10 images are bad, .* 0\.2 allows no more than 2"):
        bad.met("image 'c' is bad")
    bad.finish(10)
    with pytest.raises(UserError, match="2 of 9 images are bad"):  # a source may have fewer than it could have had
        bad.finish(9)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(UserError, match="it is a share of the images"):
        LeaveOutBadImages(share, most_images=10)
