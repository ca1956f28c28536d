"""How `story-bert` is made: the text it reads, the words it must guess, the model, the training run and the measured card.

`python -m llmtutor.training story-bert` runs `story_bert`. Training uses the seeds from 0 up, all measurements negative seeds.
Nobody tells this model who is who: it only fills in words.
"""
import json
import platform
import random
import re
from pathlib import Path

import torch
from torch.nn import functional as F

from .. import storyworld, training
from ..storyworld import words
from . import tasks, texts
from .files import resumed_tokenizer, save
from .texts import SOURCES, disguise, encode, excerpt
from .tokenizer import CONTEXT, story_tokenizer

UNKNOWN = -100
"""Label of a position that the loss leaves out (the value that PyTorch's cross entropy ignores)."""


# -- the tokenizer ---------------------------------------------------------------------------------------------------------------

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}


def bert_tokenizer(**options):
    """Make the tokenizer of `story-bert`: the pieces of the other bundled models and RoBERTa's special tokens.

    `<s> text </s>`, or `<s> text </s></s> pair </s>`. `<mask>` takes the space before it along, as a word does. A sentence that
    stands alone begins without a space, so every English word with a capital letter is also a piece without one: "Paul smiled."
    and "Then Paul smiled." would else show the same name in two pieces and in one.

    Args:
        options: For `story_tokenizer`.

    Returns:
        A `RobertaTokenizer` of transformers; numbers 0 to 3 are `<s>`, `<pad>`, `</s>`, `<mask>`.
    """
    from tokenizers import AddedToken
    from transformers import RobertaTokenizer
    plain = json.loads(story_tokenizer(**options).backend_tokenizer.to_str())["model"]
    pieces = [piece for piece, _ in sorted(plain["vocab"].items(), key=lambda item: item[1]) if not piece.startswith("<|")]
    merges = [tuple(pair) for pair in plain["merges"]]
    merges += _without_space(pieces, merges)
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*SPECIAL.values(), *pieces, *map("".join, merges)]))}
    return RobertaTokenizer(vocab=vocabulary, merges=merges, unk_token="<pad>", cls_token="<s>",
                            sep_token="</s>", model_max_length=CONTEXT, **SPECIAL | {"mask_token": AddedToken("<mask>", lstrip=True, special=True)})


def _without_space(pieces, merges):
    """The merges that join every capitalised word of `pieces` where no space stands before it, too."""
    from tokenizers import models
    known, added = {piece: number for number, piece in enumerate(pieces)}, []
    for word in [piece[1:] for piece in pieces if re.fullmatch("\u0120[A-Z][a-z]+", piece) and piece[1:] not in known]:
        whole, *rest = (token.value for token in models.BPE(known, merges).tokenize(word))
        for part in rest:
            if (whole, part) not in added:
                added.append((whole, part))
            whole += part
    return added


# -- what is masked ----------------------------------------------------------------------------------------------------------------

class Batches:
    """The batches of a run: `batches(step)` depends on the step and the seed alone.

    Every batch is (ids with masks, attention mask or None, where the loss is taken, what stood there). Documents of like length
    share a batch; which words are masked is drawn anew for each document.

    Args:
        tokenizer: The tokenizer.
        seed: Seed of the run.
        steps: Length of the run; the mix of `SOURCES` changes after 15 % of it.
        size: Documents in a batch.
        group: Batches that are made, sorted by length and shuffled together.
        rates: Least and greatest share of the tokens that are guessed, drawn for each document. Nine of ten are hidden, the tenth
            stays, so that the model also describes words that it sees.
        few: Share of the documents in which only one to three words are hidden, all of them decided by the rest of the text:
            where a third of the words is missing, what decides a word is often missing, too.
        weight: How much sooner a word that the text decides is masked.
        copies: How often a text is read, with other words masked each time: telling and cutting texts costs a seventh of the time.
    """

    def __init__(self, tokenizer, seed, steps, size=32, group=16, rates=(0.1, 0.3), few=0.3, weight=3.0, copies=2):
        self.tokenizer, self.seed, self.steps, self.size, self.group = tokenizer, seed, steps, size, group
        self.rates, self.few, self.weight, self.copies = rates, few, weight, copies
        self._number, self._made = None, []
        self._told, self._documents = None, []

    def __call__(self, step):
        number, place = divmod(step, self.group)
        if number != self._number:
            self._number, self._made = number, self._make(number)
        return self._made[place]

    def _make(self, number):
        told = number // self.copies
        if told != self._told:
            rng = random.Random(f"bert {self.seed} texts {told}")
            share = told * self.copies * self.group / self.steps
            self._told, self._documents = told, [self._one(rng, share) for _ in range(self.size * self.group)]
            self._documents.sort(key=lambda document: len(document[0]))
        rng = random.Random(f"bert {self.seed} masks {number}")
        masked = [self._masked(rng, *document) for document in self._documents]
        batches = [self._pad(masked[i:i + self.size]) for i in range(0, len(masked), self.size)]
        rng.shuffle(batches)
        return batches

    def _one(self, rng, share):
        tells, early, late = zip(*SOURCES.values())
        tell = rng.choices(tells, early if share < 0.15 else late)[0]
        text = tell(rng.randrange(2 ** 40), rng.choice(words.LANGUAGES))
        if rng.random() < 0.15:
            text = disguise(text, rng)
        if rng.random() < 0.15 and len(text.sentences) > 1:
            text = excerpt(text, rng.randrange(len(text.sentences) - 1), rng.randint(1, 4))
        return encode(text, self.tokenizer, pair=rng.random() < 0.3, weight=self.weight)

    def _masked(self, rng, ids, found):
        ids, labels = list(ids), [UNKNOWN] * len(ids)
        for positions in self._chosen(rng, len(ids), found):
            hidden = rng.random() < 0.9
            for position in positions:
                labels[position] = ids[position]
                ids[position] = self.tokenizer.mask_token_id if hidden else ids[position]
        return ids, labels

    def _chosen(self, rng, length, found):
        """The positions of each word that is to be guessed."""
        sure = [positions for positions, weight, _ in found if weight > 1]
        if sure and rng.random() < self.few:
            return rng.sample(sure, min(len(sure), rng.randint(1, 3)))
        total = sum(len(positions) * weight for positions, weight, _ in found)
        factor = rng.uniform(*self.rates) * length / max(total, 1e-9)
        return [positions for positions, weight, _ in found if rng.random() < min(0.75, factor * weight)]

    def _pad(self, documents):
        length = max(len(ids) for ids, _ in documents)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in documents])
        labels = torch.tensor([labels + [UNKNOWN] * (length - len(labels)) for _, labels in documents])
        seen = (torch.arange(length) < torch.tensor([len(ids) for ids, _ in documents])[:, None]).long()
        where = labels != UNKNOWN
        return ids, None if seen.all() else seen, where, labels[where]


# -- story-bert --------------------------------------------------------------------------------------------------------------------

STEPS = 9500
"""Length of the whole run: about 40 minutes on two free CPU threads."""
LABELS = 200
"""Labelled sentences that the fine-tuning runs of the card see."""


def new_bert(tokenizer, layers=4, heads=4, width=128, inner=384):
    """Make an untrained ModernBERT of the course's size: every layer sees the whole text, rotary positions, gated feed-forward layers."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM
    rope = {"rope_type": "default", "rope_theta": 1000.0}         # a full turn of the slowest pair is far longer than the context
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=CONTEXT, global_attn_every_n_layers=1, hidden_activation="gelu_pytorch_tanh", classifier_activation="gelu_pytorch_tanh",
        rope_parameters={"full_attention": rope, "sliding_attention": rope}, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, cls_token_id=tokenizer.cls_token_id, sep_token_id=tokenizer.sep_token_id, tie_word_embeddings=False,
        attn_implementation="sdpa")
    return ModernBertForMaskedLM(config)


def optimizers(model, lr=2e-3, muon_lr=0.01, weight_decay=0.05):
    """Muon for the matrices inside the layers, AdamW for everything else, as `training.optimizers` does for GPT-2.

    Muon's decay is ten times that of `story-gpt`: without it what the layers write grew until it was 20 times as long as the words' own
    vectors, and fine-tuning could no longer find the words.
    """
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and (".layers." in name or ".layer." in name)]
    known = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in known]
    adam = torch.optim.AdamW([{"params": [p for p in rest if p.ndim == 2], "weight_decay": weight_decay},
                              {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))
    return [training.Muon(inside, muon_lr, weight_decay=0.1), adam]


def masked_loss(model, batch):
    """Cross entropy of the masked words; the output layer is computed for them alone.

    Args:
        model: A `ModernBertForMaskedLM`.
        batch: From `Batches`.

    Returns:
        The loss (scalar tensor) and the number of tokens that were read.
    """
    ids, seen, where, target = batch
    hidden = model.model(ids, attention_mask=seen).last_hidden_state[where]
    return F.cross_entropy(model.decoder(model.head(hidden)), target), ids.numel() if seen is None else int(seen.sum())


def story_bert(out, seed=0, steps=None, fresh=False):
    """Train `story-bert` from its seed, measure it and write it to the folder `out` with its card."""
    steps = steps or STEPS
    torch.manual_seed(seed)
    tokenizer = resumed_tokenizer(out, fresh, bert_tokenizer)
    model = new_bert(tokenizer)
    checkpoint = Path(out).with_name(Path(out).name + "-checkpoint.pt")
    if fresh:
        checkpoint.unlink(missing_ok=True)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in model.parameters()):,} parameters")
    read = {lang: [texts.from_story(storyworld.story(-number, lang)) for number in range(1, 101)] for lang in words.LANGUAGES}

    def watch(step, trained):
        return {f"{name} {lang}": value for lang in words.LANGUAGES for name, value in _quick(trained, tokenizer, read[lang]).items()}

    history = training.fit(model, Batches(tokenizer, seed, steps), masked_loss, optimizers(model), steps, checkpoint=checkpoint, watch=watch)
    save(model, tokenizer, out)
    write_card(out, model, tokenizer, history, seed=seed, steps=steps, tokens=history[-1]["tokens"], seconds=history[-1]["seconds"],
               threads=torch.get_num_threads())


def _quick(model, tokenizer, read):
    """What is watched while the model trains: words, words that the text decides, and repeated names, each as the share that is right."""
    rng = random.Random("watch")
    wanted = [tasks.blanks(text, rng, 5) for text in read]
    pairs = [(hit, blank) for row, chosen in zip(tasks.fill(model, tokenizer, read, wanted), wanted) for hit, blank in zip(row, chosen)]
    kept = {"words": [hit for hit, _ in pairs], "sure": [hit for hit, blank in pairs if blank.sure], "names": [hit for hit, blank in pairs if blank.name]}
    return {name: sum(hits) / max(len(hits), 1) for name, hits in kept.items()}


# -- the card ------------------------------------------------------------------------------------------------------------------------

def write_card(out, model, tokenizer, history, stories=300, ner_seeds=(0, 1, 2), **facts):
    """Measure the model and write `card.json` (every number) and `README.md` (the card to read) beside it.

    Args:
        out: Folder with the saved model.
        model, tokenizer: What was saved there.
        history: From `training.fit`.
        stories: Number of fresh stories in each language that words are hidden in.
        ner_seeds: Seeds of the fine-tuning runs.
        facts: What else belongs in the card: seed, steps, tokens, seconds, threads.
    """
    out = Path(out)
    card = {"name": out.name, **facts, "parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer), "stories": stories,
            "made_with": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}, "measured": {}}
    for lang in words.LANGUAGES:
        card["measured"][lang] = _measured(out, model, tokenizer, lang, stories, ner_seeds)
    rounded = json.loads(json.dumps(card | {"history": history}), parse_float=lambda number: round(float(number), 4))
    (out / "card.json").write_text(json.dumps(rounded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(rounded), encoding="utf-8")


def _measured(out, model, tokenizer, lang, stories, ner_seeds):
    counts = tasks.Counts([tell(seed, lang) for tell, _, _ in SOURCES.values() for seed in range(1500)])
    fresh = [storyworld.story(-seed, lang) for seed in range(1001, 1001 + stories)]
    renamed = [storyworld.story(-seed, lang, new_names=True) for seed in range(1001, 1001 + stories)]
    found = tasks.measure(model, tokenizer, fresh, counts)
    found |= {f"new_{name}": value for name, value in tasks.measure(model, tokenizer, renamed, counts, check=False).items() if name in ("words", "names")}
    torch.manual_seed(0)
    found["untrained"] = tasks.measure(new_bert(tokenizer), tokenizer, fresh[:50], counts, check=False)["words"]
    for world, names in NER:
        for how, value in tasks.ner(out, lang, LABELS, ner_seeds, names=names, world=world).items():
            found[f"ner_{world}_{names}_{LABELS}_{how}"] = value
    for name, reviews in (("sentiment", tasks.review), ("hard_sentiment", tasks.hard_review)):
        found |= {f"{name}_{how}": value for how, value in tasks.sentiment(out, lang, reviews).items()}
    return found


ROWS = [
    ("a hidden word is found (one at a time, no punctuation) / 猜对被遮住的词（每次一个，不含标点）", "words"),
    ("the same by an oracle that knows the rules / 同上，由知道规则的神谕来猜", "oracle"),
    ("the model's share of the oracle / 模型达到神谕的比例", "of_oracle"),
    ("the same by counts of both neighbours / 同上，只按左右邻词的次数猜", "neighbours"),
    ("the same, always the most frequent word / 同上，总猜最常见的词", "frequent"),
    ("the same, an untrained copy / 同上，未训练的模型", "untrained"),
    ("a word that the rest of the text decides / 由上下文决定的词", "sure"),
    ("a name after its first mention / 再次出现的名字", "names"),
    ("the same by the oracle / 同上，由神谕来猜", "names_oracle"),
    ("a name that nobody else in the text could replace / 换成文中别人就讲不通的名字", "names_decided"),
    ("a hidden word in stories with held-out names / 人名为留出名字的故事中被遮住的词", "new_words"),
    ("a held-out name after its first mention / 再次出现的留出名字", "new_names"),
    ("sentiment of a review, 200 labels, pretrained / 评论的情感，200 个标注，预训练", "sentiment_pretrained"),
    ("the same from scratch / 同上，从头训练", "sentiment_scratch"),
    ("gain by pretraining, 5 seeds / 预训练的增益，5 个种子", "sentiment_gain"),
    ("gain on reviews without words for feelings / 不含情感词的评论上的增益", "hard_sentiment_gain"),
]
NER = [("story", "held-out"), ("story", "made-up"), ("kinds", "held-out")]
TITLES = {"story": ("stories", "故事"), "kinds": ("letters, news, reviews, ...", "书信、新闻、评论等"), "held-out": ("held-out names", "留出的名字"),
          "made-up": ("made-up names", "编造的名字"), "pretrained": ("pretrained", "预训练"), "scratch": ("from scratch", "从头训练")}


def _readme(card):
    def cell(lang, key):
        value = card["measured"][lang].get(key)
        return "-" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"

    rows = ROWS + [(f"entities, F1, {TITLES[world][0]}, {TITLES[names][0]}, {LABELS} labelled sentences, {TITLES[how][0]} / "
                    f"实体识别 F1，{TITLES[world][1]}，{TITLES[names][1]}，{LABELS} 个标注句，{TITLES[how][1]}", f"ner_{world}_{names}_{LABELS}_{how}")
                   for world, names in NER for how in ("pretrained", "scratch")]
    table = "\n".join(f"| {title} | {cell('en', key)} | {cell('zh', key)} |" for title, key in rows)
    return f"""# {card['name']}

A masked language model of {card['parameters']:,} parameters (`ModernBertForMaskedLM`, {card['vocabulary']:,} tokens) that fills in words of the course's own
world in English and Chinese, and can be fine-tuned for names, classes and answers. Trained by this repository alone:
`python -m llmtutor.training {card['name']}` (seed {card['seed']}, {card['steps']:,} steps, {card['tokens']:,} tokens,
{card['seconds'] / 60:.0f} minutes on {card['threads']} CPU thread(s)). Nobody told it who is who: it only filled in words. Licence: CC BY 4.0.

一个会在课程自有的故事世界里做中英文完形填空的掩码语言模型，共 {card['parameters']:,} 个参数，也可以微调来识别实体、分类和找答案。
它由本仓库的脚本训练，训练时只做填空，没有人告诉它谁是谁。许可：CC BY 4.0。

Measured on {card['stories']} unseen stories a language, with 95 % intervals. / 每种语言 {card['stories']} 篇未见过的故事，方括号内为 95% 区间。

| | English | 中文 |
|---|---|---|
{table}

The oracle puts in the word, likeliest between its neighbours, with which the whole text still passes the story world's checker; the exact
chances of the generator would do slightly better. Held-out names were met in training in plain texts alone, without facts or labels (held-out organisations nowhere); made-up
names are letters drawn at random.
“神谕”从邻词间最常见的词里，选出第一个能让全文通过故事世界检查器的词；若知道生成器的确切概率，还能再好一点。“留出的人名”在训练中只出现在没有事实也没有标注的平淡短文里；“编造的人名”由随机字母或汉字拼成。

Limits / 局限: it knows a few hundred words; other words break into pieces that mean little to it. Context: {CONTEXT} tokens.
它只认识几百个词，别的词会被切成意义不大的碎片。上下文长度：{CONTEXT} 个词元。
"""
