"""Smaller vocabularies: the same splits and the same outputs on the corpus, for every kind of tokenizer and family."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from compress_exp.config.checks import FieldError
from compress_exp.models.families.base import family_of
from compress_exp.models.tokenizers import train_tokenizer
from compress_exp.models.vocabulary import counts, shrink, smaller_tokenizer
from tests.conftest import build_model
from tests.forward import forward_logits

TEXTS = [
    "the film was dull and the actors were not believable",
    "an unbelievably fine plot, finely acted",
    "they saw it; we liked it, they didn't",
    "fineness of plotting is what actors like",
]
CORPUS = TEXTS[:2]


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS * 5, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ids)
    tokenizer.enable_padding(pad_id=0)
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{k}_token": v for k, v in names.items()})


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


TOKENIZERS = {
    "wordpiece": wordpiece,
    "unigram": unigram,
    "bytes": lambda: train_tokenizer(family_of("gpt2").text, 400, iter(TEXTS * 5), 64),
    "framed": lambda: train_tokenizer(family_of("bart").text, 400, iter(TEXTS * 5), 64),
}


def smaller(tokenizer):
    return smaller_tokenizer(tokenizer, counts([dict(tokenizer(text)) for text in CORPUS]))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_corpus_is_split_as_before_into_fewer_entries(kind, tmp_path):
    before = TOKENIZERS[kind]()
    after = smaller(before)
    assert len(after) < len(before)
    assert sorted(after.get_vocab().values()) == list(range(len(after)))
    old = before.get_vocab()
    order = [old[token] for token, _ in sorted(after.get_vocab().items(), key=lambda item: item[1])]
    assert order == sorted(order)
    after.save_pretrained(tmp_path)
    for tokenizer in (after, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        for text in CORPUS:
            ids, expected = tokenizer(text)["input_ids"], before(text)["input_ids"]
            assert tokenizer.convert_ids_to_tokens(ids) == before.convert_ids_to_tokens(expected)
            assert tokenizer.decode(ids) == before.decode(expected)
        assert tokenizer.special_tokens_map == before.special_tokens_map
        assert tokenizer.model_max_length == before.model_max_length


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_other_words_fall_into_smaller_pieces_and_not_into_unknown_ones(kind):
    before = TOKENIZERS[kind]()
    after = smaller(before)
    for text in TEXTS[2:]:
        ids = after(text)["input_ids"]
        assert len(ids) >= len(before(text)["input_ids"])
        assert after.unk_token_id not in ids
        assert after.decode(ids) == before.decode(before(text)["input_ids"])


@pytest.mark.parametrize("model_type", ["bert", "albert", "gpt2", "t5", "bart"])
def test_the_outputs_on_the_corpus_stay_the_same(model_type, tmp_path):
    tokenizer = train_tokenizer(family_of(model_type).text, 400, iter(TEXTS * 5), 64)
    after = smaller(tokenizer)
    model = build_model(model_type)
    for name, value in family_of(model_type).special_ids(tokenizer).items():
        setattr(model.config, name, value)
    ids = [tokenizer(text)["input_ids"] for text in CORPUS]
    length = min(map(len, ids))
    batches = []
    for reader in (tokenizer, after):
        rows = torch.tensor([reader(text)["input_ids"][:length] for text in CORPUS])
        batches.append({"input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows})
    with torch.no_grad():
        expected = forward_logits(model, batches[0])
        head = model.get_input_embeddings().weight.clone()
        shrink(model, tokenizer, after)
        logits = forward_logits(model, batches[1])
    old = tokenizer.get_vocab()
    rows = [old[token] for token, _ in sorted(after.get_vocab().items(), key=lambda item: item[1])]
    if model_type in ("gpt2", "t5", "bart"):
        # A product of another width may add in another order; the rows that it multiplies are the same to the last bit.
        torch.testing.assert_close(logits, expected[..., rows], rtol=0, atol=1e-6 * float(expected.abs().max()))
        assert torch.equal(model.get_output_embeddings().weight, head[rows])
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    else:
        assert torch.equal(logits, expected)
    assert model.config.vocab_size == len(after) == model.get_input_embeddings().weight.shape[0]
    assert model.config.pad_token_id == after.pad_token_id
    if model_type == "bart":
        assert model.config.decoder_start_token_id == after.eos_token_id


def test_positions_of_the_same_number_are_left_alone():
    tokenizer = train_tokenizer(family_of("bert").text, 400, iter(TEXTS * 5), 64)
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=400, max_position_embeddings=400, **sizes))
    shrink(model, tokenizer, smaller(tokenizer))
    assert model.bert.embeddings.position_embeddings.weight.shape[0] == 400


def test_a_tokenizer_without_a_table_of_entries_is_refused():
    with pytest.raises(FieldError, match="cannot be made smaller"):
        smaller_tokenizer(object(), [1])
