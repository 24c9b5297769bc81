"""Our storage format in transformers: import this module once, then `from_pretrained` reads every artifact.

Students and other plain architectures need no import; pruned, quantized and unevenly slimmed artifacts name this format
in the `quantization_config` of their config.json.
"""

from compress_exp.formats.quantizer import CompressExpConfig as CompressExpConfig
from compress_exp.formats.quantizer import CompressExpQuantizer as CompressExpQuantizer
