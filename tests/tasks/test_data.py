import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from compress_exp.config.checks import UserError
from compress_exp.tasks.data import lookup, rows_digest, share
from compress_exp.tasks.files import read_rows
from tests.tasks.helpers import task, write_jsonl

ROWS = [{"text": 'he said "no",\nthen ü', "label": "good"}, {"text": "plain", "label": "bad"}] * 10


def write(directory: Path, suffix: str, split: str = "train") -> Path:
    file = directory / f"{split}.{suffix}"
    if suffix == "jsonl":
        write_jsonl(file, ROWS)
    elif suffix == "json":
        file.write_text(json.dumps(ROWS))
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["text", "label"], delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    return file


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert list(read_rows(write(tmp_path, suffix))) == ROWS


def sentence(directory: Path, **overrides: object) -> str:
    """The one sentence that a wrong input is answered with."""
    with pytest.raises(UserError) as error:
        built = task("classification", data_dir=str(directory), **overrides)
        built.check()
    text = str(error.value)
    assert "\n" not in text
    return text


def test_wrong_files_are_told_in_one_sentence(tmp_path: Path) -> None:
    assert "is no directory" in sentence(tmp_path / "nowhere")
    assert "has no train file" in sentence(tmp_path)
    (tmp_path / "train.xlsx").write_text("x")
    assert "train.xlsx' is not read; allowed: jsonl, json, csv, tsv, parquet" in sentence(tmp_path)
    write(tmp_path, "jsonl")
    write(tmp_path, "csv")
    assert "twice" in sentence(tmp_path)
    (tmp_path / "train.csv").unlink()
    assert "did you mean text?" in sentence(tmp_path, columns={"text": "texts", "label": "label"})
    assert "task.columns.label" in sentence(tmp_path, columns={"text": "text", "label": "stars"})
    assert "there is no such role" in sentence(tmp_path, columns={"text": "text", "label": "label", "txt": "x"})
    assert "no test split" in sentence(tmp_path, evaluate_on="test")
    (tmp_path / "validation.jsonl").write_text("")
    assert "holds no rows" in sentence(tmp_path)
    (tmp_path / "validation.jsonl").write_text('{"text": "a", "label": "good"}\n{"text": "b"')
    assert "line 2 is no JSON" in sentence(tmp_path)
    write_jsonl(tmp_path / "validation.jsonl", [{"text": "a", "label": "good"}, {"text": None, "label": "bad"}])
    assert "row 2 holds None in 'text', a text is needed" in sentence(tmp_path)
    write_jsonl(tmp_path / "validation.jsonl", [{"text": "a", "label": "good"}, {"label": "bad"}])
    assert "row 2 lacks the column 'text'" in sentence(tmp_path)
    write_jsonl(tmp_path / "validation.jsonl", [{"text": "a", "label": "fair"}])
    assert "has the label 'fair', outside the classes; allowed: bad, good" in sentence(tmp_path)
    (tmp_path / "validation.jsonl").write_bytes(b'{"text": "\xff"}')
    assert "is not UTF-8" in sentence(tmp_path)


def test_stray_quotes_in_separated_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text('text\tlabel\n"Yes" he said\t1\nno\t0\n')
    assert "must be quoted" in sentence(tmp_path)
    (tmp_path / "train.tsv").write_text("text\tlabel\na\t1\t2\n")
    assert "2 columns of the header" in sentence(tmp_path)


def test_truncated_parquet_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "parquet")
    file.write_bytes(file.read_bytes()[:-20])
    assert "no parquet file" in sentence(tmp_path)


def test_nested_columns_fall_back_to_flat_ones() -> None:
    assert lookup({"translation": {"de": "ja", "en": "yes"}}, "translation.en") == "yes"
    assert lookup({"de": "ja", "en": "yes"}, "translation.en") == "yes"
    assert lookup({"translation.en": "dotted"}, "translation.en") == "dotted"
    with pytest.raises(KeyError):
        lookup({"translation": {"de": "ja"}}, "translation.en")


def test_shares_are_seeded_nested_and_ordered() -> None:
    indices = list(range(1000))
    tenth, half = (share(indices, fraction, "a", contiguous=False) for fraction in (0.1, 0.5))
    assert len(tenth) == 100 and set(tenth) < set(half) and tenth == sorted(tenth)
    assert tenth == share(indices, 0.1, "a", contiguous=False) != share(indices, 0.1, "b", contiguous=False)
    generator = random.Random("a")
    keys = [generator.random() for _ in indices]
    assert set(tenth) == set(sorted(indices, key=lambda index: keys[index])[:100])
    run = share(indices, 0.1, "a", contiguous=True)
    assert len(run) == 100 and sum(after - before != 1 for before, after in zip(run, run[1:], strict=False)) <= 1


def test_no_validation_file_takes_a_tenth_of_train(tmp_path: Path) -> None:
    rows = [{"text": f"row {index}", "label": index % 2} for index in range(200)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    own = task("classification", data_dir=str(tmp_path))
    train, validation = own.rows("train"), own.rows("validation")
    assert len(validation) == 20 and len(train) == 180
    assert {row["text"] for row in train} | {row["text"] for row in validation} == {row["text"] for row in rows}
    other = task("classification", data_dir=str(tmp_path), seed=1)
    assert other.rows("validation") != validation and other.identity() != own.identity()
    fewer = task("classification", data_dir=str(tmp_path), train_fraction=0.5)
    assert len(fewer.rows("train")) == 90 and fewer.rows("validation") == validation
    assert fewer.identity() != own.identity() and fewer.evaluation_identity() == own.evaluation_identity()


def test_holdout_is_evaluated_and_never_trained_on() -> None:
    plain, held = task("classification"), task("classification", holdout=0.1)
    assert len(held.rows("evaluation")) == 600 and len(held.rows("train")) == 5400
    assert held.rows("validation") == plain.rows("evaluation")
    assert held.evaluation_identity() != plain.evaluation_identity()
    with pytest.raises(UserError, match="task.evaluate_on: there is no holdout; set task.holdout"):
        task("classification", evaluate_on="holdout")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_another_split_can_be_evaluated_while_the_holdout_stays_out_of_training(tmp_path: Path, split: str) -> None:
    for name, count in (("train", 100), ("validation", 20), ("test", 30)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}", "label": i % 2} for i in range(count)])
    held = task("classification", data_dir=str(tmp_path), holdout=0.1)
    other = task("classification", data_dir=str(tmp_path), holdout=0.1, evaluate_on=split)
    explicit = task("classification", data_dir=str(tmp_path), holdout=0.1, evaluate_on="holdout")
    assert [row["text"] for row in other.rows("evaluation")] == [
        f"{split} {i}" for i in range(20 + 10 * (split == "test"))
    ]
    assert other.rows("train") == held.rows("train") and other.identity() == held.identity()
    assert not {row["text"] for row in held.rows("evaluation")} & {row["text"] for row in held.rows("train")}
    assert len(held.rows("train")) == 90 and len(held.rows("evaluation")) == 10
    plain = task("classification", data_dir=str(tmp_path), evaluate_on=split)
    assert other.evaluation_identity() == plain.evaluation_identity() != held.evaluation_identity()
    assert explicit.evaluation_identity() == held.evaluation_identity()
    assert explicit.rows("evaluation") == held.rows("evaluation")


def test_a_holdout_is_taken_after_a_drawn_validation(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"row {i}", "label": i % 2} for i in range(200)])
    plain = task("classification", data_dir=str(tmp_path))
    held = task("classification", data_dir=str(tmp_path), holdout=0.1, evaluate_on="validation")
    parts = [{row["text"] for row in held.rows(part)} for part in ("train", "validation", "holdout")]
    assert held.rows("evaluation") == plain.rows("evaluation")
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200


def test_identity_is_content_and_not_location(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "jsonl")
    first, second = (task("classification", data_dir=str(tmp_path / name), name=name) for name in ("a", "b"))
    assert first.identity() == second.identity() and json.dumps(first.identity())
    assert first.evaluation_identity() == second.evaluation_identity()
    write_jsonl(tmp_path / "b" / "train.jsonl", [*ROWS, {"text": "more", "label": "bad"}])
    again = task("classification", data_dir=str(tmp_path / "b"))
    assert again.identity() != first.identity()
    assert task("classification", data_dir=str(tmp_path / "a"), max_length=64).identity() != first.identity()
    assert task("classification", data_dir=str(tmp_path / "a"), eval_batch_size=7).identity() == first.identity()
    assert rows_digest([{"a": 1, "b": 2}]) == rows_digest([{"b": 2, "a": 1}]) != rows_digest([{"a": 1, "b": 3}])


def test_checking_imports_nothing_heavy(tmp_path: Path) -> None:
    write(tmp_path, "csv")
    code = (
        "import sys; from compress_exp.tasks.classification import Classification as C; "
        f"C(name='x', data_dir={str(tmp_path)!r}, columns=dict(text='text', label='label'), max_length=9, epochs=1, "
        "batch_size=1).check(); print([m for m in ('transformers', 'datasets', 'evaluate', 'scipy', 'sklearn', "
        "'pyarrow', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
