"""XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116): RoBERTa of a hundred languages."""

from compress_exp.models.families.roberta import FAMILY

MODEL_TYPE = "xlm-roberta"
__all__ = ["FAMILY", "MODEL_TYPE"]
