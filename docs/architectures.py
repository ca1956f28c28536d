"""Write ``docs/architectures.md``: which architectures `attend` reads, tried one by one on small random models.

Run with ``python docs/architectures.py``. Every map is compared with the library's own eager attention. Where `attend`
refuses, the table holds the sentence that it says.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from llmtutor.attention import attend  # noqa: E402

TEXT = "Lily gave Tom 今天 the red ball because he asked."
TARGET = "莉莉 gave the ball."
# Pairwise different sizes, so that swapped axes show; weights large enough that a wrong scale or mask shows.
SIZES = dict(vocab_size=320, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56,
             max_position_embeddings=96, initializer_range=0.5, bos_token_id=0, eos_token_id=0, pad_token_id=0)
FEW = SIZES | {"num_key_value_heads": 2}  # two query heads share one key head
GPT = dict(vocab_size=320, n_embd=40, n_layer=3, n_head=4, n_positions=96, initializer_range=0.5, bos_token_id=0, eos_token_id=0)
TWO = dict(vocab_size=320, d_model=40, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=5,
           encoder_ffn_dim=56, decoder_ffn_dim=48, max_position_embeddings=96, init_std=0.5, bos_token_id=0, eos_token_id=1,
           pad_token_id=2, decoder_start_token_id=3, forced_eos_token_id=None)
T5 = dict(vocab_size=320, d_model=40, d_kv=9, d_ff=56, num_layers=2, num_decoder_layers=3, num_heads=4, initializer_factor=3.0,
          pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
PIXELS = dict(hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, image_size=(24, 16),
              patch_size=8, num_channels=3, initializer_range=0.5)
EXPERTS = FEW | dict(head_dim=14, num_local_experts=2, num_experts_per_tok=1)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Architecture:
    """One row of the table: the class in transformers, the configuration class, its settings, and what the model reads."""

    title: str
    model: str
    config: str
    settings: dict
    required: bool = False
    reads: str = "text"


def _all() -> list[Architecture]:
    rows = [
        ("GPT-2", "GPT2LMHeadModel", "GPT2Config", GPT, True),
        ("Llama", "LlamaForCausalLM", "LlamaConfig", FEW, True),
        ("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", FEW | {"head_dim": 14}, True),
        ("Mistral, sliding window", "MistralForCausalLM", "MistralConfig", FEW | {"sliding_window": 5}, True),
        ("Gemma 2, soft cap", "Gemma2ForCausalLM", "Gemma2Config", FEW | {"head_dim": 14, "sliding_window": 5}, True),
        ("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES, True),
        ("BERT", "BertForMaskedLM", "BertConfig", SIZES, True),
        ("RoBERTa", "RobertaForMaskedLM", "RobertaConfig", SIZES, True),
        ("ModernBERT", "ModernBertForMaskedLM", "ModernBertConfig",
         SIZES | {"local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 0}, True),
        ("T5", "T5ForConditionalGeneration", "T5Config", T5, True, "pair"),
        ("Marian", "MarianMTModel", "MarianConfig", TWO, True, "pair"),
        ("ViT", "ViTForImageClassification", "ViTConfig", PIXELS, True, "image"),
        ("DistilBERT", "DistilBertForMaskedLM", "DistilBertConfig",
         dict(vocab_size=320, dim=40, n_layers=3, n_heads=4, hidden_dim=56, max_position_embeddings=96, initializer_range=0.5)),
        ("ELECTRA", "ElectraForMaskedLM", "ElectraConfig", SIZES),
        ("ALBERT, one layer used again", "AlbertForMaskedLM", "AlbertConfig", SIZES | {"embedding_size": 24}),
        ("DeBERTa v2", "DebertaV2ForMaskedLM", "DebertaV2Config", SIZES),
        ("XLM-RoBERTa", "XLMRobertaForMaskedLM", "XLMRobertaConfig", SIZES),
        ("Longformer", "LongformerForMaskedLM", "LongformerConfig", SIZES | {"attention_window": 4}),
        ("FNet", "FNetForMaskedLM", "FNetConfig", SIZES),
        ("OPT", "OPTForCausalLM", "OPTConfig", dict(
            vocab_size=320, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, ffn_dim=56, max_position_embeddings=96,
            init_std=0.5, word_embed_proj_dim=40)),
        ("GPT-Neo", "GPTNeoForCausalLM", "GPTNeoConfig", dict(
            vocab_size=320, hidden_size=40, num_layers=2, num_heads=4, max_position_embeddings=96, initializer_range=0.5,
            bos_token_id=0, eos_token_id=0, attention_types=[[["global", "local"], 1]], window_size=5)),
        ("GPT-J", "GPTJForCausalLM", "GPTJConfig", GPT | {"rotary_dim": 4}),
        ("BLOOM", "BloomForCausalLM", "BloomConfig", dict(vocab_size=320, hidden_size=40, n_layer=3, n_head=4, initializer_range=0.5)),
        ("Falcon", "FalconForCausalLM", "FalconConfig", SIZES | {"new_decoder_architecture": False}),
        ("Phi", "PhiForCausalLM", "PhiConfig", SIZES | {"hidden_size": 32}),
        ("Phi-3", "Phi3ForCausalLM", "Phi3Config", FEW),
        ("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", FEW),
        ("Gemma 3", "Gemma3ForCausalLM", "Gemma3TextConfig", FEW | {"head_dim": 14, "sliding_window": 5}),
        ("OLMo 2", "Olmo2ForCausalLM", "Olmo2Config", FEW),
        ("Granite", "GraniteForCausalLM", "GraniteConfig", FEW),
        ("SmolLM3", "SmolLM3ForCausalLM", "SmolLM3Config", FEW),
        ("Cohere", "CohereForCausalLM", "CohereConfig", FEW),
        ("StableLM", "StableLmForCausalLM", "StableLmConfig", FEW),
        ("Mixtral, experts", "MixtralForCausalLM", "MixtralConfig", EXPERTS),
        ("Qwen3 MoE, experts", "Qwen3MoeForCausalLM", "Qwen3MoeConfig",
         FEW | {"head_dim": 14, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 24}),
        ("gpt-oss, learned sink", "GptOssForCausalLM", "GptOssConfig", EXPERTS | {"rope_parameters": ROPE}),
        ("DeepSeek V3, latent keys", "DeepseekV3ForCausalLM", "DeepseekV3Config", SIZES | dict(
            q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=6, v_head_dim=10, n_routed_experts=2, n_group=1,
            topk_group=1, num_experts_per_tok=1, first_k_dense_replace=3, num_key_value_heads=4)),
        ("LFM2, hybrid", "Lfm2ForCausalLM", "Lfm2Config", FEW | {"layer_types": ["conv", "full_attention", "conv"]}),
        ("Qwen3-Next, hybrid", "Qwen3NextForCausalLM", "Qwen3NextConfig", FEW | dict(
            head_dim=14, layer_types=["linear_attention", "full_attention", "linear_attention"], num_experts=0, mlp_only_layers=[0, 1, 2],
            linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)),
        ("Mamba", "MambaForCausalLM", "MambaConfig", dict(vocab_size=320, hidden_size=40, num_hidden_layers=2, state_size=8)),
        ("BART", "BartForConditionalGeneration", "BartConfig", TWO, False, "pair"),
        ("mBART", "MBartForConditionalGeneration", "MBartConfig", TWO, False, "pair"),
        ("M2M100", "M2M100ForConditionalGeneration", "M2M100Config", TWO, False, "pair"),
        ("Pegasus", "PegasusForConditionalGeneration", "PegasusConfig", TWO, False, "pair"),
        ("mT5", "MT5ForConditionalGeneration", "MT5Config", T5, False, "pair"),
        ("LED", "LEDForConditionalGeneration", "LEDConfig", {k: v for k, v in TWO.items() if k != "max_position_embeddings"} | dict(
            attention_window=4, max_encoder_position_embeddings=96, max_decoder_position_embeddings=96), False, "pair"),
        ("T5 encoder alone", "T5EncoderModel", "T5Config", T5),
        ("CLIP, text", "CLIPModel", "CLIPConfig", dict(
            text_config={k: v for k, v in SIZES.items() if k != "initializer_range"} | {"initializer_factor": 20.0},
            vision_config={**PIXELS, "image_size": 16, "initializer_factor": 20.0}, projection_dim=24)),
        ("CLIP, image", "CLIPModel", "CLIPConfig", dict(
            text_config=SIZES, vision_config={**PIXELS, "image_size": 16, "initializer_factor": 20.0}, projection_dim=24), False, "image"),
        ("SigLIP, image", "SiglipVisionModel", "SiglipVisionConfig", PIXELS | {"image_size": 16}, False, "image"),
        ("DeiT", "DeiTForImageClassification", "DeiTConfig", PIXELS, False, "image"),
        ("DINOv2", "Dinov2Model", "Dinov2Config", PIXELS | {"image_size": 16}, False, "image"),
        ("BEiT", "BeitModel", "BeitConfig", PIXELS | {"image_size": 16}, False, "image"),
        ("Swin, windows", "SwinModel", "SwinConfig", dict(
            image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2), False, "image"),
        ("Whisper", "WhisperForConditionalGeneration", "WhisperConfig", TWO, False, "pair"),
        ("LLaVA", "LlavaForConditionalGeneration", "LlavaConfig", dict(
            text_config=transformers.LlamaConfig(**FEW), vision_config=transformers.CLIPVisionConfig(**(PIXELS | {"image_size": 16})))),
    ]
    return [Architecture(*row) for row in rows]


ARCHITECTURES = {row.title: row for row in _all()}


def make_tokenizer():
    """A small byte-level tokenizer that knows the two texts."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT, TARGET] * 5, vocab_size=300, special_tokens=["<|endoftext|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), 320)])  # a random model writes any of its 320 tokens
    return tokenizer


def build(row: Architecture, tokenizer) -> SimpleNamespace:
    """A small random model of one architecture, with `.model` and `.tokenizer`."""
    torch.manual_seed(1)
    config = getattr(transformers, row.config)(**copy.deepcopy(row.settings))
    model = getattr(transformers, row.model)(config).eval()
    return SimpleNamespace(model=model, tokenizer=tokenizer)


def call(row: Architecture, lm, **options):
    """`attend` on what this architecture reads."""
    if row.reads == "image":
        return attend(lm, image=image(row), **options)
    return attend(lm, TEXT, **({"target": TARGET} if row.reads == "pair" else {}), **options)


def image(row: Architecture) -> np.ndarray:
    """Pixel values [1, colour, row, column] for one architecture, the same at each call."""
    settings = row.settings.get("vision_config", row.settings)
    size = settings["image_size"]
    height, width = [size] * 2 if isinstance(size, int) else size
    return np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)


def parts(att) -> dict:
    """The maps of a result by part."""
    return {name: getattr(att, name) for name in ("encoder", "decoder", "cross")} if hasattr(att, "cross") else {"self": att}


def eager(row: Architecture, lm, att) -> dict[str, dict[int, np.ndarray]]:
    """The library's own maps, by its eager attention: part -> true layer -> [head, query, key]."""
    from llmtutor.attention.reading import tower

    model, before = lm.model, lm.model.config._attn_implementation
    found = parts(att)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        if row.reads == "pair":
            out = model(input_ids=_ids(found["encoder"]), decoder_input_ids=_ids(found["decoder"]), output_attentions=True)
            maps = {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions}
        elif row.reads == "image":
            out = tower(model, "vision_model")(torch.tensor(image(row)), output_attentions=True)
            maps = {"self": out.attentions}
        else:
            maps = {"self": tower(model, "text_model")(_ids(att), output_attentions=True).attentions}
    model.set_attn_implementation(before)
    for part, one in maps.items():
        one = [m for m in one if m is not None]
        if len(one) != len(found[part].layers):
            raise AssertionError(f"{row.title}: the library has {len(one)} maps, attend {len(found[part].layers)}")
        maps[part] = {layer: m[0].numpy() for layer, m in zip(found[part].layers, one, strict=True)}
    return maps


def _ids(att):
    return torch.tensor([[piece.ids[0] for piece in att.pieces]])


def largest_difference(row: Architecture, lm, att) -> float:
    """The largest difference of any weight from the library's eager attention."""
    reference, found = eager(row, lm, att), parts(att)
    return max(float(np.abs(found[part][layer, head] - reference[part][layer][n]).max())
               for part in found for layer in found[part].layers for n, head in enumerate(found[part].heads))


def try_one(row: Architecture, tokenizer) -> tuple[bool, str, str]:
    """Whether an architecture works, and what to write about it in English and Chinese."""
    lm = build(row, tokenizer)
    try:
        att = call(row, lm)
    except ValueError as error:
        english, _, chinese = str(error).partition(" / ")
        return False, english, chinese
    difference = largest_difference(row, lm, att)
    if difference > 1e-5:
        raise AssertionError(f"{row.title}: off by {difference} from the library's eager attention")
    return True, *_remarks(att)


def _remarks(att) -> tuple[str, str]:
    english, chinese = [], []
    found = parts(att)
    first = next(iter(found.values()))
    if len(found) == 3:
        english, chinese = ["encoder, decoder and cross-attention"], ["编码器、解码器与交叉注意力"]
    if "self" in found and first.layers != list(range(first.layers[-1] + 1)) or (len(found) == 1 and len(first.layers) == 1):
        english.append(f"only layer {first.layers} of the small model has attention, and keeps its true number")
        chinese.append(f"小模型中只有第 {first.layers} 层有注意力，编号保持不变")
    if first.key_heads != first.heads:
        english.append(f"key heads are shared: head → key head {first.key_heads}")
        chinese.append(f"键头共享：各头对应的键头为 {first.key_heads}")
    if first.info.get("sinks"):
        english.append("rows sum to less than 1: the rest goes to a learned sink")
        chinese.append("各行之和小于 1，其余给了学到的“汇”")
    if "grid" in first.info:
        rows, columns = first.info["grid"]
        extra = len(first) - rows * columns
        english.append(f"tokens are patches r0c0 … r{rows - 1}c{columns - 1}" + (f" after {extra} of the model's own" if extra else ""))
        chinese.append(f"词元是图块 r0c0 … r{rows - 1}c{columns - 1}" + (f"，前面有模型自己的 {extra} 个词元" if extra else ""))
    return "; ".join(english) or "yes", "；".join(chinese) or "可以"


def table() -> str:
    """The whole file."""
    tokenizer = make_tokenizer()
    lines = ["# Architectures / 模型架构", "",
             "Written by `python docs/architectures.py`; do not edit. Each was tried on a small random model with weights large",
             "enough for mistakes to show. \"Equal\" means: every weight within 1e-5 of the library's own eager attention, in float32.",
             "Where `attend` refuses, the sentence is the one that it says.", "",
             "本文件由 `python docs/architectures.py` 生成，请勿手改。每种架构都用一个权重足够大的随机小模型试过。“相同”指：在 float32 下，",
             "每个权重与 transformers 自带的 eager 注意力相差不超过 1e-5。`attend` 拒绝时给出的，就是表中那句话。", "",
             f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}", "",
             "| architecture | class | equal / 相同 | remarks | 说明 |", "|---|---|---|---|---|"]
    for row in ARCHITECTURES.values():
        works, english, chinese = try_one(row, tokenizer)
        lines.append(f"| {row.title} | `{row.model}` | {'yes / 是' if works else 'no / 否'} | {english} | {chinese} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "architectures.md").write_text(table(), encoding="utf-8")
