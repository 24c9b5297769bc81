import pytest
import transformers

from compress_exp.models.task_head import head_of


@pytest.mark.parametrize(
    ("auto_class", "model_types"),
    [
        ("AutoModelForSequenceClassification", ("bert", "roberta", "distilbert", "albert", "xlm-roberta")),
        ("AutoModelForQuestionAnswering", ("bert", "roberta", "distilbert", "albert", "xlm-roberta")),
        ("AutoModelForMaskedLM", ("bert", "distilbert")),
        ("AutoModelForCausalLM", ("gpt2", "llama")),
        ("AutoModelForSeq2SeqLM", ("t5", "bart")),
    ],
)
def test_heads_are_those_of_the_classes_that_transformers_builds(auto_class: str, model_types: tuple[str, ...]) -> None:
    mapping = getattr(transformers, auto_class)._model_mapping
    for model_type in model_types:
        built = mapping[type(transformers.AutoConfig.for_model(model_type))].__name__
        assert f"AutoModel{head_of(built)}" == auto_class


def test_a_name_that_does_not_tell_has_no_head() -> None:
    assert [head_of(name) for name in ("BertModel", "T5WithLMHeadModel", "")] == [None] * 3
