import re

import pytest

from compress_exp.tasks.data import rows_digest
from compress_exp.tasks.embedded import generate, questions, reviews, translation

DIGESTS = {
    "questions": "290c6a911d05b81afd644fcdd3cf0407de71d3d7326f5b0cd4a43aa42df9a0e4",
    "reviews": "44763b5608719712eeb1e26ec61fa9a67feb6ff3b5cc34f5cb21b3a3efd75175",
    "translation": "b643d9eb06d6a3496bdefed714b10b72a11042264b483441199d0e956ff21d17",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_generated_rows_are_the_same_on_every_python(name: str) -> None:
    every = [row for split in ("train", "validation", "test") for row in generate(name, split)]
    assert rows_digest(every) == DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("reviews", (6000, 1000, 1000)), ("translation", (6000, 500, 500)), ("questions", (6000, 500, 500))],
)
def test_splits_have_their_size_and_hardly_overlap(name: str, sizes: tuple[int, ...]) -> None:
    splits = [generate(name, split) for split in ("train", "validation", "test")]
    assert tuple(map(len, splits)) == sizes
    field = {"reviews": "text", "translation": "source", "questions": "context"}[name]
    seen = {row[field] for row in splits[0]}
    assert sum(row[field] in seen for row in splits[1]) < 0.02 * sizes[1]


def test_one_sentence_of_a_report_answers_its_question() -> None:
    asked = {"who": 0, "what": 0, "where": 0, "when": 0}
    for row in generate("questions", "train"):
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start:].startswith(answer)
        part = row["question"].split()[0]
        asked[part] += 1
        (deed,) = set(row["question"].split()) & set(questions.DEEDS)
        sentences = [sentence for sentence in row["context"].split(" .") if deed in sentence.split()]
        assert len(sentences) == 1 and row["context"][:start].count(" .") == row["context"].split(" .").index(
            *sentences
        )
        before, after = sentences[0].split(f" {deed} ")
        pieces = {
            "who": re.sub(r"^ *on \w+ ", "", before).strip(),
            "what": after.split(" in ")[0],
            "where": re.search(r" in (the \w+)", after)[1],  # type: ignore[index]
            "when": re.search(r"\bon (\w+day)\b", sentences[0])[1],  # type: ignore[index]
        }
        assert answer == pieces[part], row
    assert min(asked.values()) > 0.2 * sum(asked.values())


def clause_value(clause: str) -> int:
    words = clause.split()
    adjective = next((word for word in words if word in reviews.GOOD + reviews.BAD), None)
    if adjective is None:
        return 0
    negated, strong = "not" in words or "never" in words, "very" in words or "truly" in words
    weight = (1 if strong else 2) if negated else 3 if strong else 1 if "slightly" in words else 2
    return weight * (1 if adjective in reviews.GOOD else -1) * (-1 if negated else 1)


def sentence_value(sentence: str) -> int:
    if " but " in sentence:
        first, second = sentence.split(" but ")
        return (0 if "called it" in first else clause_value(first)) + 3 * clause_value(second)
    if sentence.startswith("although "):
        first, second = sentence.split(" , ")
        return clause_value(first) + 3 * clause_value(second)
    return sum(clause_value(clause) for clause in sentence.split(" and "))


def test_labels_of_reviews_follow_from_their_text() -> None:
    rows = generate("reviews", "train")
    values = [sum(map(sentence_value, row["text"].removesuffix(" .").split(" . "))) for row in rows]
    right = sum((value > 0) == row["label"] for value, row in zip(values, rows, strict=True))
    assert all(abs(value) >= 2 for value in values)
    assert 0.98 < right / len(rows) < 0.99
    assert 0.45 < sum(row["label"] for row in rows) / len(rows) < 0.55
    lengths = sorted(len(row["text"].split()) for row in rows)
    assert 18 <= lengths[3000] <= 22


def test_words_of_the_invented_language_agree() -> None:
    genders = {noun.stem: noun.gender for noun in translation.NOUNS + translation.PLACES}
    for row in generate("translation", "validation"):
        phrases = re.findall(r"\b(lon?|tan?|uma?|duz|triz) (\w+)((?: \w+?(?:urs?|enas?)\b)*)", row["target"])
        assert len(phrases) >= 2, row
        for article, noun, adjectives in phrases:
            plural = noun not in genders
            gender = genders[noun.removesuffix("i") if plural else noun]
            allowed = [("lon" if plural else "lo", "tan" if plural else "ta")[gender]]
            allowed += ["duz", "triz"] if plural else [("um", "uma")[gender]]
            assert article in allowed, row
            for adjective in adjectives.split():
                assert adjective.endswith((("ur", "urs"), ("ena", "enas"))[gender][plural]), row


def test_the_verb_stands_last_and_agrees_with_its_subject() -> None:
    simple = [r for r in generate("translation", "train") if not re.search(r" (and|because) ", r["source"])]
    for row in simple:
        last = row["target"].removesuffix(".").split()[-1]
        plural = not re.match(r"(lo|ta|uma?) ", row["target"])
        assert last.endswith(("aton", "ivon", "ivan") if plural else ("at", "ivo", "iva")), row


def test_prose_is_english_and_no_paragraph_is_in_two_splits() -> None:
    splits = {split: generate("prose", split) for split in ("train", "validation", "test")}
    paragraphs = {split: [p for row in rows for p in row["text"].split("\n\n")] for split, rows in splits.items()}
    for split, others in (("validation", ("train", "test")), ("test", ("train",))):
        assert not set(paragraphs[split]) & {p for other in others for p in paragraphs[other]}
    sizes = {split: sum(map(len, rows)) for split, rows in paragraphs.items()}
    assert sizes["train"] > 100_000 and sizes["validation"] > 10_000 and sizes["test"] > 5_000
    words = " ".join(paragraphs["train"]).lower().split()
    assert words.count("the") > 0.04 * len(words)
