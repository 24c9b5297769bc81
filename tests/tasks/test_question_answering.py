import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.text import squad as torchmetrics_squad
from transformers import BertConfig

from compress_exp.config.checks import FieldError, UserError
from compress_exp.losses.soft_targets import soft_loss
from compress_exp.losses.task import hard_loss
from compress_exp.tasks import text_scores
from compress_exp.tasks.base import Predictions
from compress_exp.tasks.spans import NOWHERE, best_span, tokens_of
from tests.tasks.helpers import task, word_tokenizer, write_jsonl

CONTEXT = "a b c d e f g h i j"
CONFIG = BertConfig(max_position_embeddings=64)


def row(context: str, question: str, *answers: str) -> dict[str, Any]:
    starts = [context.index(answer) for answer in answers]
    return {"context": context, "question": question, "answers": {"text": list(answers), "answer_start": starts}}


ROWS = [row(CONTEXT, "q r", "e f", "e"), row("x y", "r", "y")]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", ROWS)
    return tmp_path


def built(directory: Path, **overrides: Any) -> Any:
    settings = {"max_length": 10, "max_question_length": 3, "doc_stride": 2, "max_answer_length": 3}
    return task("question_answering", data_dir=str(directory), **(settings | overrides))


def words() -> Any:
    return word_tokenizer([CONTEXT, "q r x y"])


class Fixed:
    """Answers each window from its words: (start, end) logits by word, 0 for all others, and for the first token."""

    config = CONFIG

    def __init__(self, tokenizer: Any, logits: dict[str, tuple[float, float]], null: tuple[float, float]) -> None:
        self.logits = {tokenizer.convert_tokens_to_ids(word): both for word, both in logits.items()}
        self.logits[tokenizer.cls_token_id] = null

    def outputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        values = [[self.logits.get(int(token), (0.0, 0.0)) for token in line] for line in batch["input_ids"]]
        both = torch.tensor(values)
        return {"start_logits": both[..., 0], "end_logits": both[..., 1]}


def test_a_long_context_is_read_in_windows_that_overlap(directory: Path) -> None:
    tokenizer = words()
    found = built(directory).features("validation", tokenizer, CONFIG)
    texts = [tokenizer.decode(window["input_ids"]) for window in found]
    # Ten tokens: [CLS] q r [SEP], five of the context, two of which the next window has too, and [SEP].
    assert texts == [
        "[CLS] q r [SEP] a b c d e [SEP]",
        "[CLS] q r [SEP] d e f g h [SEP]",
        "[CLS] q r [SEP] g h i j [SEP]",
        "[CLS] r [SEP] x y [SEP]",
    ]
    assert [window["row"] for window in found] == [0, 0, 0, 1]
    # "e f" is whole in the second window only; the others point at [CLS].
    assert [(window["labels_start"], window["labels_end"]) for window in found] == [(0, 0), (5, 6), (0, 0), (4, 4)]
    assert found[1]["labels_context"] == [1, -100, -100, -100, 1, 1, 1, 1, 1, -100]
    assert found[1]["offsets"][3:6] == [None, (6, 7), (8, 9)]


def test_a_long_question_is_cut_and_a_short_model_reads_shorter_windows(directory: Path) -> None:
    write_jsonl(directory / "train.jsonl", [row(CONTEXT, "q r q r q", "j")])
    tokenizer = words()
    (first, *_) = built(directory).features("train", tokenizer, CONFIG)
    assert tokenizer.decode(first["input_ids"]).startswith("[CLS] q r q [SEP] a") and "offsets" not in first
    small = built(directory).features("train", tokenizer, BertConfig(max_position_embeddings=8))
    assert max(len(window["input_ids"]) for window in small) == 8
    shown = [tokenizer.decode(window["input_ids"]).split("[SEP]")[1].split() for window in small]
    assert sorted({word for part in shown for word in part}) == CONTEXT.split()


def test_starts_and_ends_are_positions_over_the_tokens_of_the_window(directory: Path) -> None:
    one, tokenizer = built(directory), words()
    batch = one.collate(one.features("train", tokenizer, CONFIG)[2:], tokenizer)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask"} | {
        "labels_start", "labels_end", "labels_context"
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(2, 9, generator=generator, requires_grad=True) for name in one.outputs}
    logits, labels = one.targets(outputs, batch)
    assert logits.shape == (4, 9) and labels.tolist() == [0, 4, 0, 4]
    # The second window may answer with [CLS], x or y; its loss by hand.
    start = outputs["start_logits"][1, [0, 3, 4]]
    expected = torch.logsumexp(start, 0) - start[2]
    assert hard_loss(logits[1:2], labels[1:2]).item() == pytest.approx(expected.item(), rel=1e-6)
    hard_loss(logits, labels).backward()
    gradient = outputs["start_logits"].grad
    assert gradient is not None and (gradient[1] != 0).nonzero().flatten().tolist() == [0, 3, 4]


@pytest.mark.parametrize("temperature", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_divergence_from_a_teacher_is_over_the_tokens_that_may_answer(
    directory: Path, temperature: float, dtype: torch.dtype
) -> None:
    one, tokenizer = built(directory), words()
    batch = one.collate(one.features("train", tokenizer, CONFIG)[3:], tokenizer)
    own, other = torch.tensor([[3.0, 9, 9, 1, 2, 9]], dtype=dtype), torch.tensor([[1.0, -9, 5, 2, 2, -9]], dtype=dtype)
    student, _ = one.targets({"start_logits": own, "end_logits": own}, batch)
    teacher, _ = one.targets({"start_logits": other, "end_logits": other}, batch)
    found = soft_loss(student, teacher, temperature)
    p = np.exp(np.array([1.0, 2, 2]) / temperature) / np.exp(np.array([1.0, 2, 2]) / temperature).sum()
    q = np.exp(np.array([3.0, 1, 2]) / temperature) / np.exp(np.array([3.0, 1, 2]) / temperature).sum()
    assert found.item() == pytest.approx(2 * temperature**2 * float((p * np.log(p / q)).sum()), rel=1e-4)


@pytest.mark.parametrize("size", [1, 3, 32])
def test_the_best_span_of_all_windows_is_the_answer(directory: Path, tmp_path: Path, size: int) -> None:
    tokenizer = words()
    logits = {"q": (99.0, 99.0), "b": (1.0, 0.0), "g": (4.0, 0.0), "i": (0.0, 3.0), "j": (0.0, 4.0), "c": (0.0, 9.0)}
    found = built(directory, eval_batch_size=size).evaluate(Fixed(tokenizer, logits, (50.0, 50.0)), tokenizer, False)
    # "b c" is worth 10; "g … j" (8) is too long, "c" ends before "g" begins, and a question is no answer.
    assert found.texts == ["b c", "x"] and found.arrays["span"].tolist() == [[2, 5], [0, 1]]
    found.save(tmp_path / "saved")
    again = Predictions.load(tmp_path / "saved")
    assert again.texts == found.texts
    assert built(directory).agreement(again, found) == {"same": 1.0, "kl": 0.0}


def test_none_is_the_answer_where_every_window_says_so_and_rows_may_have_none(directory: Path) -> None:
    rows = [*ROWS, {"context": "x y", "question": "q", "answers": {"text": [], "answer_start": []}}]
    write_jsonl(directory / "validation.jsonl", rows)
    with pytest.raises(UserError, match=r"row 3 has no answer; task\.null_answers=true allows that$"):
        built(directory).check()
    one, tokenizer = built(directory, null_answers=True), words()
    one.check()
    found = one.evaluate(Fixed(tokenizer, {"e": (3.0, 0.0), "f": (0.0, 3.0)}, (2.0, 2.0)), tokenizer, False)
    assert found.texts == ["e f", "", ""] and found.arrays["span"].tolist() == [[8, 11], [-1, -1], [-1, -1]]
    assert one.metrics(found) == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    assert one.evaluation_identity() != built(directory).evaluation_identity()
    assert one.identity() == built(directory).identity()


def test_agreement_is_over_equal_tokens_only(directory: Path) -> None:
    one, tokenizer = built(directory), words()
    own = one.evaluate(Fixed(tokenizer, {"e": (2.0, 0.0), "y": (5.0, 5.0)}, (0.0, 0.0)), tokenizer, False)
    other = one.evaluate(Fixed(tokenizer, {"y": (5.0, 5.0)}, (0.0, 0.0)), tokenizer, False)
    found = one.agreement(own, other)
    assert found["same"] == pytest.approx(0.5)
    # Eight rows of logits, two of which differ: six tokens at 0 that the student sees as one at 2 and five at 0.
    expected = math.log(5 + math.exp(2)) - math.log(6) - 2 / 6
    assert found["kl"] == pytest.approx(2 * expected / 8, rel=1e-5)
    own.arrays["place"][0, 5] += 1
    assert one.agreement(own, other)["kl"] is None


def test_scores_are_those_of_squads_script() -> None:
    texts = ["The Cat!", "a dog barks loudly", "it's 1,912", "", "big  red", "the"]
    references = [["cat", "dog"], ["dogs bark", "dog barks"], ["1912"], ["x"], ["Red, big."], ["none", "a"]]
    found = text_scores.squad(texts, references)
    assert found["exact_match"].tolist() == [1, 0, 0, 0, 0, 0]
    assert found["f1"].tolist() == pytest.approx([1, 0.8, 2 / 3, 0, 1, 0])
    for index in range(5):  # the sixth reference has no words, which version 2 of the script leaves out
        expected = torchmetrics_squad(
            [{"prediction_text": texts[index], "id": "1"}],
            [{"answers": {"text": references[index], "answer_start": [0] * len(references[index])}, "id": "1"}],
        )
        assert found["exact_match"][index] * 100 == pytest.approx(expected["exact_match"].item())
        assert found["f1"][index] * 100 == pytest.approx(expected["f1"].item())
    assert text_scores.squad(["", "y"], [[], []])["f1"].tolist() == [1, 0]


def test_the_interval_holds_the_mean(directory: Path) -> None:
    write_jsonl(directory / "validation.jsonl", [row("x y", "q", "y")] * 40)
    one = built(directory)
    texts = ["y"] * 30 + ["x"] * 10
    low, high = one.interval(Predictions({}, texts))
    assert one.metrics(Predictions({}, texts))["f1"] == 0.75 and low < 0.75 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 40), rel=0.2)


def test_spans_of_tokens_and_of_characters() -> None:
    offsets = [None, (0, 3), (3, 7), (7, 9)]  # byte-level: " the" has its space
    assert tokens_of((0, 3), offsets) == (1, 1) and tokens_of((4, 9), offsets) == (2, 3)
    assert tokens_of((4, 12), offsets) is None and tokens_of(NOWHERE, offsets) is None
    starts, ends = np.array([9.0, 0, 2, 0]), np.array([9.0, 0, 1, 0])
    assert best_span(starts, ends, offsets, "one two ee", 5, 20) == (3.0, (4, 7))
    assert best_span(starts, ends, [None] * 4, "", 5, 20) == (-np.inf, NOWHERE)
    assert best_span(starts, ends, offsets, " " * 9, 5, 20) == (-np.inf, NOWHERE)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ({"text": ["e"], "answer_start": [0]}, "the context has no 'e' at character 0; count characters from 0"),
        ({"text": ["e"], "answer_start": [-10]}, "the context has no 'e' at character -10"),
        ({"text": [" "], "answer_start": [1]}, "the context has no ' ' at character 1"),
        ({"text": ["e"], "answer_start": [8, 9]}, "has 1 answers and 2 starts"),
        ({"text": [8], "answer_start": [8]}, r"holds \[8\], texts are needed"),
        ({"text": ["e"], "answer_start": ["x"]}, r"holds \['x'\], numbers of characters are needed"),
        ({"text": [], "answer_start": []}, "has no answer"),
    ],
)
def test_a_wrong_answer_is_refused_in_a_sentence(directory: Path, answers: dict[str, Any], sentence: str) -> None:
    wrong = {"context": CONTEXT, "question": "q", "answers": answers}
    write_jsonl(directory / "validation.jsonl", [*ROWS, wrong])
    with pytest.raises(UserError, match=rf"^task\.columns\.answer(s|_starts): [^\n]*row 3[^\n]*{sentence}"):
        built(directory).check()


def test_one_answer_may_stand_without_a_list(tmp_path: Path) -> None:
    content = 'context,question,answer,start\n"a b 12",q,12,4\n'
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(content)
    columns = {"question": "question", "context": "context", "answers": "answer", "answer_starts": "start"}
    found = built(tmp_path, columns=columns).rows("train")
    assert found == [{"question": "q", "context": "a b 12", "answers": ["12"], "answer_starts": [4]}]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"doc_stride": 4}, "doc_stride"),
        ({"max_question_length": 6}, "max_question_length"),
        ({"max_answer_length": 0}, "max_answer_length"),
        ({"n_best": 0}, "n_best"),
    ],
)
def test_settings_without_room_are_refused(directory: Path, overrides: dict[str, int], key: str) -> None:
    with pytest.raises((FieldError, UserError), match=key):
        built(directory, **overrides)
