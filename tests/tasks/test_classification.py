from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.config.checks import UserError
from compress_exp.tasks.base import Predictions
from compress_exp.tasks.classification import derive_classes
from tests.tasks.helpers import ModelPredictor, task, word_tokenizer, write_jsonl


def own(directory: Path, labels: list, **overrides: object):
    write_jsonl(
        directory / "train.jsonl", [{"text": f"t {index}", "label": label} for index, label in enumerate(labels)]
    )
    validation = overrides.pop("validation", labels[:4])
    rows = [{"text": f"v {index}", "label": label} for index, label in enumerate(validation)]
    write_jsonl(directory / "validation.jsonl", rows)
    return task("classification", data_dir=str(directory), **overrides)


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["pos", "neg", "neu", "pos"], ["neg", "neu", "pos"], [2, 0, 1, 2]),
        ([1, 5, 10, 2], ["1", "2", "5", "10"], [0, 2, 3, 1]),
        (["10", "9", "10", "9"], ["9", "10"], [1, 0, 1, 0]),
        ([1.0, 0.0, 1.0, 0.0], ["0", "1"], [1, 0, 1, 0]),
        ([True, False, True, True], ["0", "1"], [1, 0, 1, 1]),
        ([-1, 1, 1, -1], ["-1", "1"], [0, 1, 1, 0]),
    ],
)
def test_own_labels_become_ids(tmp_path: Path, labels: list, names: list[str], ids: list[int]) -> None:
    built = own(tmp_path, labels)
    built.check()
    assert built.class_names == names
    assert [row["label"] for row in built.rows("validation")] == ids
    overrides = built.config_overrides()
    assert overrides["num_labels"] == len(names) and overrides["id2label"] == dict(enumerate(names))
    assert BertConfig(**overrides).num_labels == len(names)


def test_given_classes_take_names_and_ids(tmp_path: Path) -> None:
    built = own(tmp_path, [0, 1, "positive", "0"], classes=["negative", "positive"])
    assert [row["label"] for row in built.rows("train")] == [0, 1, 1, 0]
    with pytest.raises(UserError, match="label 2, outside the classes"):
        own(tmp_path, [0, 1, 2], classes=["negative", "positive"]).check()


@pytest.mark.parametrize(
    ("labels", "overrides", "message"),
    [
        ([0, 1], {"validation": [0, 2]}, "outside the classes"),
        ([0, 0], {}, "one class '0'"),
        ([0.5, 1], {}, "task.regression=true"),
        (["high", 1], {"regression": True}, "'high', a number is needed"),
        ([1, 2], {"regression": True, "validation": [-1, -1]}, "unlabelled"),
        ([0, 1], {"validation": [-1, -1]}, "unlabelled"),
        ([0, 1], {"regression": True, "metric_names": ["accuracy"]}, "spearman, pearson"),
        ([0, 1], {"metric_names": ["bleu"]}, "accuracy, f1, matthews"),
        ([0, 1], {"classes": ["a", "a"]}, "different names"),
    ],
)
def test_wrong_labels_are_told(tmp_path: Path, labels: list, overrides: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        own(tmp_path, labels, **overrides).check()
    assert "\n" not in str(error.value)


def test_an_unlabelled_test_split_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 1}] * 9)
    write_jsonl(tmp_path / "test.jsonl", [{"sentence": "a", "label": -1}])
    task("sst2", data_dir=str(tmp_path)).check()
    with pytest.raises(UserError, match="unlabelled"):
        task("sst2", data_dir=str(tmp_path), evaluate_on="test").check()


def test_classes_with_whole_numbers_sort_by_value() -> None:
    assert derive_classes({"10", "9", "-1"}, "here") == ["-1", "9", "10"]


def test_features_and_batches_of_pairs(tmp_path: Path) -> None:
    rows = [
        {"sentence1": "a b c d e", "sentence2": "f", "label": 1},
        {"sentence1": "a", "sentence2": "b", "label": 0},
        {"sentence1": "a", "sentence2": "b c", "label": 1},
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "validation.jsonl", rows)
    built = task("rte", data_dir=str(tmp_path), max_length=8)
    tokenizer = word_tokenizer(["a b c d e f"])
    config = BertConfig(max_position_embeddings=7)
    features = built.features("train", tokenizer, config)
    assert [len(feature["input_ids"]) for feature in features] == [7, 5, 6]
    batch = built.collate(features, tokenizer)
    assert batch["input_ids"][1].tolist() == [2, 4, 3, 5, 3, 0, 0]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert batch["token_type_ids"][1].tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert batch["labels"].tolist() == [1, 0, 1] and batch["labels"].dtype == torch.long
    logits, labels = built.targets({"logits": torch.zeros(3, 2)}, batch)
    assert logits.shape == (3, 2) and labels.tolist() == [1, 0, 1]


def test_regression_labels_are_numbers(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": value} for value in (0, 2.5, 5)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "validation.jsonl", rows)
    built = task("stsb", data_dir=str(tmp_path))
    tokenizer = word_tokenizer(["a b"])
    batch = built.collate(built.features("train", tokenizer, BertConfig()), tokenizer)
    assert batch["labels"].tolist() == [0.0, 2.5, 5.0] and batch["labels"].dtype == torch.float32
    assert built.config_overrides() == {"num_labels": 1, "problem_type": "regression"}
    guesses = np.array([[0.1], [0.4], [0.3]], dtype=np.float32)
    predictions = Predictions({"logits": guesses, "labels": np.array([0.0, 2.5, 5.0])})
    metrics = built.metrics(predictions)
    assert built.primary == "spearman" and metrics["spearman"] == pytest.approx(0.5)
    assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(guesses[:, 0], [0, 2.5, 5]).statistic)
    assert built.agreement(predictions, predictions) == {"same": None, "kl": None}


def test_evaluation_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    built, tokenizer = task("classification"), word_tokenizer([r["text"] for r in task("classification").rows("train")])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    predictor = ModelPredictor(BertForSequenceClassification(config))
    first = built.evaluate(predictor, tokenizer, progress=False)
    other = task("classification", eval_batch_size=7).evaluate(predictor, tokenizer, progress=False)
    np.testing.assert_allclose(first.arrays["logits"], other.arrays["logits"], atol=1e-5)
    row = built.features("evaluation", tokenizer, config)[17]
    alone = predictor.outputs({"input_ids": torch.tensor([row["input_ids"]])})["logits"][0]
    np.testing.assert_allclose(first.arrays["logits"][17], alone.numpy(), atol=1e-5)
    assert first.arrays["labels"].tolist() == [r["label"] for r in built.rows("validation")]
    first.save(tmp_path)
    loaded = Predictions.load(tmp_path)
    assert loaded.texts is None
    np.testing.assert_array_equal(loaded.arrays["logits"], first.arrays["logits"])


def predictions(classes: int, seed: int = 0, size: int = 400) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=size)
    logits = generator.normal(size=(size, classes)) + 1.5 * np.eye(classes)[labels]
    return Predictions({"logits": logits.astype(np.float32), "labels": labels})


@pytest.mark.parametrize("name", ["mrpc", "mnli", "cola"])
def test_metrics_agree_with_sklearn(name: str) -> None:
    built = task(name, metric_names=["matthews", "accuracy", "f1"])
    given = predictions(len(built.class_names))
    guesses, labels = given.arrays["logits"].argmax(-1), given.arrays["labels"]
    average = "binary" if name != "mnli" else "macro"
    assert built.metrics(given) == pytest.approx(
        {
            "matthews": sklearn.metrics.matthews_corrcoef(labels, guesses),
            "accuracy": sklearn.metrics.accuracy_score(labels, guesses),
            "f1": sklearn.metrics.f1_score(labels, guesses, average=average),
        }
    )
    low, high = built.interval(given)
    assert low < built.metrics(given)["matthews"] < high and high - low < 0.25
    assert built.metric_settings() == {"f1": average}


def test_the_interval_of_accuracy_is_binomial() -> None:
    given = predictions(2, size=100)
    guesses = given.arrays["logits"].argmax(-1)
    given.arrays["labels"] = np.where(np.arange(100) < 90, guesses, 1 - guesses)
    # Wilson's interval for 90 of 100, from its textbook formula.
    z, n, p = 1.959964, 100, 0.9
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)]
    assert task("classification").interval(given) == pytest.approx(expected, abs=1e-6)


def test_agreement_counts_equal_classes_and_measures_kl() -> None:
    built, own_one, baseline = task("classification"), predictions(2), predictions(2, seed=1)
    assert built.agreement(own_one, own_one) == {"same": 1.0, "kl": pytest.approx(0, abs=1e-6)}
    found = built.agreement(own_one, baseline)
    p, q = (scipy.special.softmax(x.arrays["logits"].astype(float), -1) for x in (baseline, own_one))
    assert found["kl"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert found["same"] == np.mean(own_one.arrays["logits"].argmax(-1) == baseline.arrays["logits"].argmax(-1))
