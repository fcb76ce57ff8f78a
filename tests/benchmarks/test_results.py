"""The page of the comparison with the papers."""

import json

from benchmarks import results


def row_of(tmp_path, seeds):
    """The cells of `linear`'s first row, of runs with these errors."""
    measured = {
        "num_epochs": 3.0,
        "training_seconds": 120.0,
        "seeds": [{"mse": mse, "largest_angle_degrees": 0.5} for mse in seeds],
    }
    (tmp_path / "linear.json").write_text(json.dumps(measured))
    page = results.table(tmp_path)
    return [cell.strip() for cell in page[page.index("| `linear`") :].split("|")[1:10]]


def test_several_seeds_have_their_mean_and_range_and_the_mean_is_held_to_the_goal(tmp_path):
    cells = row_of(tmp_path, [0.0160, 0.0172, 0.0166])
    assert cells[3:5] == ["0.0166 (0.016 to 0.0172)", "3"]
    assert cells[6].endswith("reached")
    assert row_of(tmp_path, [0.0160, 0.0180])[6].endswith("short")


def test_one_seed_has_its_value(tmp_path):
    cells = row_of(tmp_path, [0.0170])
    assert (cells[3:5], cells[7:]) == (["0.017", "1"], ["3", "2 min"])
    assert cells[6].endswith("short")
