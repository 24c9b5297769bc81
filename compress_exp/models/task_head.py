"""What the class of a model is called says which head it has."""

from __future__ import annotations

import re

# Transformers' older names of heads.
ALSO = {"LMHeadModel": "ForCausalLM", "ForConditionalGeneration": "ForSeq2SeqLM"}


def head_of(architecture: str) -> str | None:
    """The head of a class of models, as `AutoModel…` is named by it: "ForCausalLM" of GPT2LMHeadModel.

    Args:
        architecture: the name of the class, as a configuration holds it in `architectures`.

    Returns:
        None for a model without a head, or one of a name that does not tell.
    """
    found = re.search(r"(?<!With)LMHeadModel$|For[A-Z]\w*$", architecture)
    return None if found is None else ALSO.get(found[0], found[0])
