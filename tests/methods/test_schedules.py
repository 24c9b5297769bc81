import pytest

from compress_exp.methods.schedules import sparsity_at


def test_cubic_has_its_published_points():
    assert sparsity_at(0.0, 0.8, "cubic") == 0.0
    assert sparsity_at(0.5, 0.8, "cubic") == pytest.approx(0.875 * 0.8)
    assert sparsity_at(1.0, 0.8, "cubic") == 0.8


def test_geometric_removes_the_same_share_of_what_is_left():
    left = [1 - sparsity_at(r / 5, 1 - 0.8**5, "geometric") for r in range(6)]
    assert left == pytest.approx([0.8**r for r in range(6)])


@pytest.mark.parametrize("schedule", ["one_shot", "cubic", "geometric"])
def test_schedules_never_fall_and_land_on_the_target(schedule):
    values = [sparsity_at(p / 100, 0.7, schedule) for p in range(101)]
    assert values == sorted(values)
    assert values[-1] == 0.7
