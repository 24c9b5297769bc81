"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT's blocks, positions that begin after the padding index."""

from dataclasses import replace

from compress_exp.models.families import bert
from compress_exp.models.families.base import FRAMED

FAMILY = replace(bert.FAMILY, text=FRAMED, after_padding=True)
