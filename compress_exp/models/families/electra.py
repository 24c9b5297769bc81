"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT's blocks, on embeddings that may be narrower than they are."""

from compress_exp.models.families.bert import FAMILY

__all__ = ["FAMILY"]
