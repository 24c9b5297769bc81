"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT's blocks under another name."""

from compress_exp.models.families.bert import FAMILY

__all__ = ["FAMILY"]
