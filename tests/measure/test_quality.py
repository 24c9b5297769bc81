import pytest

from compress_exp.measure.quality import retained


def test_retained_quality() -> None:
    assert retained(0.9, 0.95, True) == pytest.approx(0.9 / 0.95)
    assert retained(20.0, 10.0, False) == pytest.approx(0.5)
    assert retained(0.1, 0.0, True) is None and retained(0.1, -0.2, True) is None
    assert retained(-0.1, 0.5, True) == pytest.approx(-0.2)
