"""How `story-translator` is made: sentence pairs, one encoder-decoder for both directions, training run, measured card.

`python -m llmtutor.training story-translator` runs `story_translator`. Training uses the seeds from 0 up, all measurements negative
seeds. The first token of the source names the language to write: `<zh>Lily was happy.` asks for Chinese.
"""
import contextlib
import json
import platform
import random
from pathlib import Path

import torch

from .. import storyworld, training
from ..storyworld import pairs as paired
from ..storyworld import stories, words
from .files import resumed_tokenizer, save
from .tokenizer import CONTEXT, story_tokenizer

PAD, TARGETS = "<pad>", {"en": "<en>", "zh": "<zh>"}
IGNORED = -100          # a label that the loss leaves out
LENGTHS = (1, 1, 1, 1, 2, 2, 3, 3, 4, 4)    # sentences of a training window, drawn from these: many stand alone
TELLERS = (storyworld.story,) * 7 + (storyworld.facts, stories.plain, stories.plain)


# -- pairs as token ids ----------------------------------------------------------------------------------------------------------

def translator_tokenizer(count=6000):
    """The bundled models' tokenizer, trained on `count` stories, with a token for padding and one for each target language."""
    tokenizer = story_tokenizer(stories=count)
    tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.add_tokens([*TARGETS.values()], special_tokens=True)
    return tokenizer


def encode(tokenizer, examples):
    """Make a batch of translations.

    Args:
        tokenizer: From `translator_tokenizer`.
        examples: List of (source text, target text, target language).

    Returns:
        Dict of tensors: `input_ids` and `attention_mask` of shape [batch, source], `labels` of shape [batch, target], which
        end with the end-of-text token and are padded with -100.
    """
    sources = tokenizer([TARGETS[lang] + source for source, _, lang in examples])["input_ids"]
    targets = [ids + [tokenizer.eos_token_id] for ids in tokenizer([target for _, target, _ in examples])["input_ids"]]
    ids = _padded(sources, tokenizer.pad_token_id)
    return {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long(), "labels": _padded(targets, IGNORED)}


def _padded(rows, fill):
    length = min(CONTEXT, max(map(len, rows)))
    return torch.tensor([row[:length] + [fill] * (length - len(row)) for row in rows])


class PairBatches:
    """The batches of a run: `batches(step)` depends on the step and the seed alone.

    Each story gives a few windows of one to four sentences, and each window both directions. Examples of like length share a batch.
    """

    def __init__(self, tokenizer, seed, size=64, group=16, windows=4):
        self.tokenizer, self.seed, self.size, self.group, self.windows = tokenizer, seed, size, group, windows
        self._number, self._batches = None, []

    def __call__(self, step):
        number, place = divmod(step, self.group)
        if number != self._number:
            self._number, self._batches = number, self._make(number)
        return encode(self.tokenizer, self._batches[place])

    def _make(self, number):
        rng = random.Random(f"pairs {self.seed} {number}")
        examples = []
        while len(examples) < self.size * self.group:
            tell, seed = rng.choice(TELLERS), rng.randrange(2 ** 40)
            en, zh = (tell(seed, lang) for lang in words.LANGUAGES)
            for _ in range(self.windows):
                n = min(rng.choice(LENGTHS), len(en.sentences))
                pair = paired.window(en, zh, rng.randrange(len(en.sentences) - n + 1), n)
                examples += [(pair.en, pair.zh, "zh"), (pair.zh, pair.en, "en")]
        examples = sorted(examples[:self.size * self.group], key=lambda example: len(self.tokenizer.tokenize(example[1])))
        batches = [examples[i:i + self.size] for i in range(0, len(examples), self.size)]
        rng.shuffle(batches)
        return batches


# -- the model -------------------------------------------------------------------------------------------------------------------

def new_translator(tokenizer, layers=2, heads=4, width=128):
    """Make an untrained Marian of the course's size: `layers` in the encoder and as many in the decoder, one embedding for all."""
    from transformers import MarianConfig, MarianMTModel
    config = MarianConfig(
        vocab_size=len(tokenizer), decoder_vocab_size=len(tokenizer), d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        max_position_embeddings=CONTEXT, activation_function="gelu", dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        scale_embedding=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
        decoder_start_token_id=tokenizer.pad_token_id, forced_eos_token_id=None)
    model = MarianMTModel(config)
    settings = model.generation_config
    settings.decoder_start_token_id, settings.pad_token_id, settings.eos_token_id = config.decoder_start_token_id, config.pad_token_id, config.eos_token_id
    settings.max_length, settings.num_beams, settings.do_sample, settings.forced_eos_token_id = CONTEXT, 1, False, None
    return model


def split_optimizers(model, lr=3e-3, muon_lr=0.02, weight_decay=0.05):
    """Muon for the matrices inside encoder and decoder layers, AdamW for embeddings, biases and norms; AdamW alone if `muon_lr` is 0."""
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name and muon_lr]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    adam = torch.optim.AdamW([{"params": [p for p in rest if p.ndim == 2], "weight_decay": weight_decay},
                              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))
    return [training.Muon(inside, muon_lr), adam] if inside else [adam]


def translation_loss(model, batch):
    """Mean next-token loss of the target texts, and the number of their tokens."""
    return model(**batch, use_cache=False).loss, int((batch["labels"] != IGNORED).sum())


def story_translator(out, seed=0, steps=None, fresh=False):
    """Train `story-translator` from its seed, measure it and write it to the folder `out` with its card."""
    steps = steps or STEPS
    torch.manual_seed(seed)
    tokenizer = resumed_tokenizer(out, fresh, translator_tokenizer, "GPT2Tokenizer")
    model = new_translator(tokenizer)
    checkpoint = Path(out).with_name(Path(out).name + "-checkpoint.pt")
    if fresh:
        checkpoint.unlink(missing_ok=True)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    some = {name: held_out(range(-1, -1 - min(COUNT, 60), -1), n) for name, n in (("single", 1), ("window", 3))}

    def watch(step, model):
        return {f"{name} {lang}": share(exact(model, tokenizer, pairs, lang)) for name, pairs in some.items() for lang in words.LANGUAGES} | {
            f"alignment {lang}": max(map(share, aligned(model, tokenizer, some["window"], lang).values())) for lang in words.LANGUAGES}

    history = training.fit(model, PairBatches(tokenizer, seed), translation_loss, split_optimizers(model), steps, checkpoint=checkpoint, watch=watch)
    save(model, tokenizer, out)
    write_card(out, model, tokenizer, history, seed=seed, steps=steps, tokens=history[-1]["tokens"], seconds=history[-1]["seconds"],
               threads=torch.get_num_threads())


STEPS = 2500
COUNT = 400             # unseen stories that the card is measured on


# -- measurement: the numbers of the card ------------------------------------------------------------------------------------------

def held_out(seeds, length, tell=storyworld.story, **options):
    """One window of `length` sentences of each unseen story, each at a place that its seed decides.

    Returns:
        List of `Pair`; stories that are too short are left out.
    """
    found = []
    for seed in seeds:
        all_of_it = [tell(seed, lang, **options) for lang in words.LANGUAGES]
        places = len(all_of_it[0].sentences) - length + 1
        if places > 0:
            found.append(paired.window(*all_of_it, random.Random(f"window {seed}").randrange(places), length))
    return found


@torch.no_grad()
def translate(model, tokenizer, texts, target, size=64):
    """Translate texts into the language `target` ("en" or "zh") with the model's own settings for `generate`."""
    if target not in TARGETS:
        raise ValueError(f"target must be 'en' or 'zh'; got {target!r}")
    model.eval()
    result = []
    for i in range(0, len(texts), size):
        batch = encode(tokenizer, [(text, "", target) for text in texts[i:i + size]])
        ids = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        result += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return result


def exact(model, tokenizer, pairs, target):
    """For each pair (1 or 0, 1): is the translation, letter for letter, one of the pair's references?"""
    source = "zh" if target == "en" else "en"
    written = translate(model, tokenizer, [pair.text(source) for pair in pairs], target)
    return [(int(text in paired.references(pair, target)), 1) for text, pair in zip(written, pairs)]


@torch.no_grad()
def aligned(model, tokenizer, pairs, target, content=False, size=32):
    """Does the most attended source token belong to the true counterpart, at the step that writes the first token of a word?

    Args:
        model: An encoder-decoder; it reads the reference up to that step.
        tokenizer: Its tokenizer.
        pairs: List of `Pair`; only words with a counterpart count.
        target: The language that is written.
        content: Whether only words count that name somebody or something (`storyworld.pairs.content`), not verbs and grammar.

    Returns:
        Dict from (layer, head) of the cross-attention to a list of (hits, words), one for each pair; under "diagonal" the same for
        a reader without a model, who looks at the source token at the same relative place.
    """
    model.eval()
    source = "zh" if target == "en" else "en"
    found = {}
    for i in range(0, len(pairs), size):
        some = pairs[i:i + size]
        batch = encode(tokenizer, [(pair.text(source), pair.text(target), target) for pair in some])
        with _eager(model):
            maps = model(**batch, use_cache=False, output_attentions=True).cross_attentions     # a layer: [batch, head, target, source]
        looked = {(layer, head): best[:, head] for layer, best in enumerate(m.argmax(-1) for m in maps) for head in range(best.shape[1])}
        for row, pair in enumerate(some):
            truth = _truth(tokenizer, pair, target, content)
            length, written = int(batch["attention_mask"][row].sum()), int((batch["labels"][row] != IGNORED).sum())
            for head, places in looked.items():
                found.setdefault(head, []).append((sum(int(places[row, at]) in right for at, right in truth), len(truth)))
            found.setdefault("diagonal", []).append((sum(1 + at * (length - 1) // written in right for at, right in truth), len(truth)))
    return found


def _truth(tokenizer, pair, target, content=False):
    """For each aligned word of the target: (number of its first token, numbers of the source tokens of its counterparts)."""
    side = words.LANGUAGES.index(target)
    spans = [tokenizer(pair.text(lang), return_offsets_mapping=True)["offset_mapping"] for lang in words.LANGUAGES]
    counterparts = {}
    for pair_of_spans in pair.alignment:
        if content and (pair.en[slice(*pair_of_spans[0])].lower(), pair.zh[slice(*pair_of_spans[1])]) not in paired.content():
            continue
        counterparts.setdefault(pair_of_spans[side], []).append(pair_of_spans[1 - side])
    result = []
    for (start, end), sources in counterparts.items():
        first = next((n for n, (a, b) in enumerate(spans[side]) if b > start), None)
        right = {n + 1 for n, (a, b) in enumerate(spans[1 - side]) for c, d in sources if a < d and b > c}      # 0 is <en> or <zh>
        if first is not None:
            result.append((first, right))
    return result


@contextlib.contextmanager
def _eager(model):
    """Let the model show its attention weights; put back what was there."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def share(counts):
    """The share of hits in a list of (hits, tries)."""
    return sum(hits for hits, _ in counts) / sum(tries for _, tries in counts)


def interval(counts, draws=1000):
    """The 95 % bootstrap interval of `share`, drawn over the pairs."""
    rng = random.Random(0)
    shares = sorted(share(rng.choices(counts, k=len(counts))) for _ in range(draws))
    return shares[int(.025 * draws)], shares[int(.975 * draws) - 1]


def best_head(model, tokenizer, target, chosen_on, scored_on, content=False):
    """Choose the cross-attention head that aligns best on some pairs, and score it on others.

    Returns:
        Dict with `head` ([layer, head]), `accuracy`, `interval`, and for the diagonal reader `diagonal`.
    """
    first = {head: share(counts) for head, counts in aligned(model, tokenizer, chosen_on, target, content).items()}
    head = max((head for head in first if head != "diagonal"), key=first.get)
    second = aligned(model, tokenizer, scored_on, target, content)
    return {"head": list(head), "accuracy": share(second[head]), "interval": interval(second[head]), "diagonal": share(second["diagonal"]),
            "all_heads": {f"{layer}.{number}": share(counts) for (layer, number), counts in sorted(
                (item for item in second.items() if item[0] != "diagonal"))}}


def measure_translator(model, tokenizer, count=None):
    """Measure a translator on unseen stories.

    Returns:
        Dict from target language to exact match (share, interval) of single sentences, of windows of 2 to 4 sentences and of
        single sentences about held-out people, and the alignment of the best cross-attention head beside its controls.
    """
    count = count or COUNT
    seeds = range(-10001, -10001 - count, -1)
    tests = {"single": held_out(seeds, 1), "windows": [pair for n in (2, 3, 4) for pair in held_out(seeds[n::3], n)],
             "single_new_names": held_out(seeds, 1, new_names=True)}
    chosen_on, scored_on = (held_out(range(first, first - count // 2, -1), 3) for first in (-20001, -30001))
    torch.manual_seed(1)
    untrained = new_translator(tokenizer)
    result = {}
    for target in words.LANGUAGES:
        result[target] = {}
        for name, pairs in tests.items():
            hits = exact(model, tokenizer, pairs, target)
            result[target][name] = {"exact": share(hits), "interval": interval(hits), "pairs": len(hits)}
        for name, content in (("alignment", False), ("alignment_content", True)):
            result[target][name] = best_head(model, tokenizer, target, chosen_on, scored_on, content)
            result[target][name + "_untrained"] = best_head(untrained, tokenizer, target, chosen_on, scored_on, content)
    return result


def samples(model, tokenizer, target, count=20):
    """Sources, translations and references of unseen windows, to be read."""
    source = "zh" if target == "en" else "en"
    pairs = [pair for n in (1, 2, 3, 4) for pair in held_out(range(-40001, -40001 - count // 4, -1), n)]
    written = translate(model, tokenizer, [pair.text(source) for pair in pairs], target)
    return [{"source": pair.text(source), "translation": text, "reference": pair.text(target), "right": text in paired.references(pair, target)}
            for pair, text in zip(pairs, written)]


def write_card(out, model, tokenizer, history, **facts):
    """Measure the model and write `card.json` (every number) and `README.md` (the card to read) beside it."""
    out = Path(out)
    card = {"name": out.name, **facts, "parameters": model.num_parameters(), "vocabulary": len(tokenizer),
            "made_with": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
            "measured": measure_translator(model, tokenizer),
            "samples": {f"to {target}": samples(model, tokenizer, target) for target in words.LANGUAGES}, "history": history}
    rounded = json.loads(json.dumps(card), parse_float=lambda number: round(float(number), 4))
    (out / "card.json").write_text(json.dumps(rounded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(rounded), encoding="utf-8")


def _readme(card):
    to_zh, to_en = card["measured"]["zh"], card["measured"]["en"]

    def cell(found, key):
        return f"{found[key]:.3f} ({found['interval'][0]:.3f}-{found['interval'][1]:.3f})"

    rows = [(title, *(cell(found[name], "exact") for found in (to_zh, to_en))) for title, name in (
        ("exact match, single sentences / 单句完全一致", "single"), ("exact match, 2 to 4 sentences / 2-4 句完全一致", "windows"),
        ("exact match, single sentences about held-out people and places / 单句，未用于主要训练的人名和地点", "single_new_names"))]
    for name, en, zh in (("alignment_content", "names, pronouns, things, colours, places", "人名、代词、物品、颜色、地点"), ("alignment", "all words", "所有词")):
        found = [(column[name], column[name + "_untrained"]) for column in (to_zh, to_en)]
        rows += [(f"alignment by the best cross-attention head, {en} / 最佳交叉注意力头的词对齐，{zh}", *(cell(trained, "accuracy") for trained, _ in found)),
                 ("that head [layer, head] / 该头 [层, 头]", *(str(trained["head"]) for trained, _ in found)),
                 ("the same by relative place, no model / 按相对位置对齐（无模型）", *(f"{trained['diagonal']:.3f}" for trained, _ in found)),
                 ("the same, best head of an untrained copy / 未训练模型的最佳头", *(cell(untrained, "accuracy") for _, untrained in found))]
    table = "\n".join(f"| {title} | {first} | {second} |" for title, first, second in rows)
    return f"""# {card['name']}

An encoder-decoder of {card['parameters']:,} parameters (`MarianMTModel`, 2 + 2 layers, {card['vocabulary']:,} tokens) that translates the sentences of the
course's own story world both ways. The first token of the source names the language to write: `<zh>Lily was happy.` Trained by this repository
alone: `python -m llmtutor.training {card['name']}` (seed {card['seed']}, {card['steps']:,} steps, {card['tokens']:,} target tokens, {card['seconds'] / 60:.0f} minutes on
{card['threads']} CPU thread(s)). Licence: CC BY 4.0.

一个编码器—解码器模型，共 {card['parameters']:,} 个参数，在课程自有的故事世界里做中英互译。原文前的第一个词元指定译文语言，例如 `<en>莉莉很高兴。`
全部由本仓库的脚本训练。许可：CC BY 4.0。

| measured on unseen stories, with 95 % intervals / 未见过的故事，括号内为 95 % 区间 | English to Chinese / 英译中 | Chinese to English / 中译英 |
|---|---|---|
{table}

**No alignment labels were used in training**; the head was chosen on other stories than it was scored on. It counts as right when, at the step that writes the first
token of a word, the most attended source token belongs to the word's true counterpart (`llmtutor.storyworld.pairs`).
**训练中没有使用任何词对齐标签**；选头所用的故事与评分所用的故事不同。写出一个词的第一个词元时，若注意力最大的原文词元属于它真正的对应词，即算正确。

A translation is right when it equals the reference letter for letter. Only one word is left open by the source: where nobody male is spoken of, English "they" may be
他们 or 她们, and both count.
译文须与参考译文逐字相同。只有一处原文无法决定：文中没有提到男性时，英文 they 可译作"他们"或"她们"，两者都算对。

Limits / 局限: it knows the words of the story world only. It translates up to four sentences at a time; longer texts were not in its training.
它只认识故事世界里的词；训练时一次最多四句，更长的文本没有见过。
"""
