"""Attention maps of a text: who looks at whom, in every layer and head.

`attend` runs the model once and keeps the attention weights, `Attention` holds them with their tokens, `attend_many`
measures every head over many texts. Torch and transformers are imported only when a model is run: an `Attention` made
from other people's arrays needs neither.
"""

from llmtutor.attention.capture import UINT8_BOUND, Recorder, capturing
from llmtutor.attention.maps import Attention, EncoderDecoderAttention
from llmtutor.attention.reading import attend
from llmtutor.attention.survey import HeadStatistics, attend_many

__all__ = ["Attention", "EncoderDecoderAttention", "HeadStatistics", "Recorder", "UINT8_BOUND", "attend", "attend_many", "capturing"]
