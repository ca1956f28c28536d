"""Which architectures cannot be read, and why: one sentence each, in English and Chinese.

`attend` raises these sentences, and ``docs/architectures.md`` is made from what it raises.
"""

from __future__ import annotations

_NO_ATTENTION = ("is a recurrent or convolutional model: it mixes tokens without attention, so there are no maps",
                 "是循环或卷积模型，不用注意力混合词元，所以没有注意力图")
_OWN_SCORES = ("computes its scores in its own way (parts for places and content are added inside the layer) and not through "
               "the registry of transformers, so its maps cannot be captured",
               "在层内部自行计算分数（位置与内容分开相加），不经过 transformers 的注意力注册表，所以无法截取")
_WINDOWS = ("attends within windows that are cut out and shifted, so there is no single map over all patches",
            "只在切开并移动的窗口内计算注意力，所以没有覆盖所有图块的单张图")
_BLOCKS = ("attends in blocks with its own sparse kernel, so a full map of queries and keys never exists",
           "用自己的稀疏算法分块计算注意力，从不产生完整的注意力图")
_SOUND = ("reads sound, and attend reads text and images", "读的是声音，而 attend 只读文本和图像")
_MIXED = ("reads pictures inside the text; attend reads the one or the other: to look at its "
          "text alone, hand over its language model and tokenizer as an object with .model and .tokenizer",
          "把图像放进文本一起读；attend 只读其中一种；若只看文本，请把其中的语言模型和分词器"
          "装进一个带 .model 和 .tokenizer 的对象再传入")

# By `model_type` of the configuration. What is not listed is tried, and if it does not work says so (see `unregistered`).
REASONS = {
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "fnet", "xlstm"), _NO_ATTENTION),
    **dict.fromkeys(("deberta", "deberta-v2", "xlnet", "transfo-xl", "funnel"), _OWN_SCORES),
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin"), _WINDOWS),
    **dict.fromkeys(("longformer", "led", "big_bird", "bigbird_pegasus", "reformer", "longt5"), _BLOCKS),
    **dict.fromkeys(("whisper", "wav2vec2", "hubert", "wavlm", "speech_to_text", "audio-spectrogram-transformer"), _SOUND),
    **dict.fromkeys(("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "paligemma",
                     "internvl"), _MIXED),
}
_UNREGISTERED = ("computes attention in its own way and not through the registry of transformers, so its maps cannot be captured",
                 "自行计算注意力，不经过 transformers 的注意力注册表，所以无法截取")


def why_not(model) -> str | None:
    """The sentence that says why a model's attention cannot be read, or None where it can be tried."""
    reason = REASONS.get(getattr(model.config, "model_type", None))
    if reason is None and not model._can_set_attn_implementation():
        reason = _UNREGISTERED
    return None if reason is None else f"{type(model).__name__} {reason[0]} / {type(model).__name__} {reason[1]}。"
