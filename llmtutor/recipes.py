"""How the bundled models are made: tokenizer, documents, model, training run, measured card.

`python -m llmtutor.training story-gpt` runs `story_gpt`. Training uses the seeds from 0 up, all measurements negative seeds.
"""
import collections
import json
import platform
import random
import re
from pathlib import Path

import torch
from torch.nn import functional as F

from . import storyworld, training
from .storyworld import grammar, words
from .tokens import LETTERS

END = "<|endoftext|>"
CONTEXT = 256


# -- tokenizer ---------------------------------------------------------------------------------------------------------

def learn_merges(counts, size):
    """Learn byte-pair merges from words, never across the bytes of two unfinished characters.

    Plain byte-pair encoding (Sennrich et al. 2016) may join the last byte of one Chinese character to the first of the next;
    then no token is a character. Here two pieces are joined only inside one character, or when both are whole characters.

    Args:
        counts: Dict from word to its count.
        size: Largest number of merges.

    Returns:
        List of pairs of byte strings, most frequent first.
    """
    pieces = {word: [bytes([b]) for b in word.encode()] for word in counts}
    merges = []
    while len(merges) < size:
        pairs = collections.Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += counts[word]
        allowed = [(count, pair) for pair, count in pairs.items() if _may_join(*pair)]
        if not allowed:
            break
        best = max(allowed)[1]
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = _join(parts, best)
    return merges


def _may_join(left, right):
    """True if both byte strings are whole characters, or `left` begins one character that `right` continues."""
    whole = [_whole(part) for part in (left, right)]
    return all(whole) or not whole[0] and right[0] & 0xC0 == 0x80 and len(left + right) <= _length(left[0])


def _whole(part):
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def _length(first):
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _join(parts, pair):
    result = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def story_tokenizer(stories=6000, merges=2048):
    """Train the byte-level tokenizer of the bundled models and return it as transformers' `GPT2Tokenizer`.

    English words count with the space before them, as in GPT-2. Chinese has no spaces, so its words are cut by the story
    world's lexicon before they are counted: no token spans two words.
    """
    from transformers import GPT2Tokenizer
    counts = collections.Counter()
    split = re.compile(r" ?[A-Za-z]+|\s+|[^A-Za-z\s]+")
    for seed in range(stories):
        for tell in (storyworld.story, storyworld.facts):
            counts.update(split.findall(tell(seed, "en").text))
            counts.update(storyworld.segment(tell(seed, "zh").text))
    letters = {byte: letter for letter, byte in LETTERS.items()}
    learned = [tuple("".join(letters[b] for b in part) for part in pair) for pair in learn_merges(counts, merges)]
    vocabulary = [letters[b] for b in range(256)] + ["".join(pair) for pair in learned]
    vocabulary = {token: number for number, token in enumerate([END, *dict.fromkeys(vocabulary)])}
    return GPT2Tokenizer(vocab=vocabulary, merges=learned, unk_token=END, bos_token=END, eos_token=END, pad_token=END,
                         model_max_length=CONTEXT)


# -- documents: token ids with a weight and labels for each ---------------------------------------------------------------------

def _numbers(entities):
    return {entity: number for number, entity in enumerate(entities)}


LABELS = {
    "person": _numbers(words.PEOPLE), "thing": _numbers(grammar.THINGS), "likes": _numbers(words.FOODS), "mood": _numbers(["happy", "sad"]),
    "holder": _numbers(words.PEOPLE), "inside": _numbers(words.CONTAINERS),
}
"""What the throw-away heads learn to say at every word: the person and the thing spoken of last, and what is known of them."""
NONE = -100


def document(told, tokenizer, names=False):
    """Encode a story.

    Args:
        told: A `storyworld.Story`.
        tokenizer: The tokenizer.
        names: Whether every name weighs more, not only those that follow from the facts (the second part of the training).

    Returns:
        List of equally long lists: token ids, weights of the loss, then one list of numbers for each of `LABELS` (-100: unknown).
    """
    encoding = tokenizer(told.text, return_offsets_mapping=True)
    columns = _character_labels(told, names)
    starts = [start if told.text[start] != " " or end == start + 1 else start + 1 for start, end in encoding["offset_mapping"]]
    return [encoding["input_ids"]] + [[column[start] for start in starts] for column in columns]


def _character_labels(told, names):
    length = len(told.text)
    weight, labels = [1.0] * length, {name: [NONE] * length for name in LABELS}
    begins = {start for start, _, _ in told.sentences} | {start + 1 for start, _, _ in told.sentences}
    for mention in told.mentions:
        if mention.form in ("name", "pronoun"):
            about = {"person": mention.entity, "likes": None, "mood": None}
        elif mention.form in ("thing", "it"):
            about = {"thing": mention.entity, "holder": None, "inside": None}
        else:
            about = {}
        for name, value in (about | dict(mention.known)).items():
            labels[name][mention.start:] = [LABELS[name].get(value, NONE)] * (length - mention.start)
        first = mention.start in begins
        if mention.bound and not first or names and mention.form == "name":
            weight[mention.start:mention.end] = [2.0 if first else 5.0] * (mention.end - mention.start)
    for start, end in told.answers:
        weight[start:end] = [10.0] * (end - start)
    return [weight, *labels.values()]


def repeats(rng, tokens):
    """Make a list of random tokens that is said several times: what follows a token can only be known by looking back."""
    chosen = rng.sample(tokens, rng.randint(3, 20))
    times = max(2, 44 // len(chosen))
    ids = chosen * times
    weights = [0.1] * len(chosen) + [1.0] * (len(ids) - len(chosen))
    return [ids, weights] + [[NONE] * len(ids) for _ in LABELS]


class Batches:
    """The batches of a run: `batches(step)` depends on the step and the seed alone.

    The mix changes as the run goes on: first repeated lists and small facts, then stories; with `short`, short stories. Documents of like length share a
    batch. A document begins with the end-of-text token, or (one in four) does not, so that a bare prompt works too.
    """

    def __init__(self, tokenizer, seed, steps, size=32, group=16, short=False):
        self.tokenizer, self.seed, self.steps, self.size, self.group = tokenizer, seed, steps, size, group
        self.tokens = [i for i in range(257, len(tokenizer))]
        self.short = short
        self._number, self._documents = None, []

    def __call__(self, step):
        number, place = divmod(step, self.group)
        if number != self._number:
            self._number, self._documents = number, self._make(number)
        return self._pad(self._documents[place])

    def _make(self, number):
        rng = random.Random(f"batches {self.seed} {'short ' * self.short}{number}")
        share = number * self.group / self.steps
        documents = [self._short(rng) if self.short else self._one(rng, share) for _ in range(self.size * self.group)]
        documents.sort(key=lambda columns: len(columns[0]))
        batches = [documents[i:i + self.size] for i in range(0, len(documents), self.size)]
        rng.shuffle(batches)
        return batches

    def _one(self, rng, share):
        kind = rng.random()
        early = share < 0.15
        if kind < (0.2 if early else 0.03):
            columns = repeats(rng, self.tokens)
        else:
            tell = storyworld.facts if kind < (0.7 if early else 0.15) else storyworld.story
            columns = document(tell(rng.randrange(2 ** 40), rng.choice(words.LANGUAGES)), self.tokenizer)
        return self._framed(rng, columns)

    def _short(self, rng):
        kind = rng.random()
        tell = storyworld.facts if kind < 0.1 else storyworld.story if kind < 0.25 else storyworld.short
        return self._framed(rng, document(tell(rng.randrange(2 ** 40), rng.choice(words.LANGUAGES)), self.tokenizer, names=True))

    def _framed(self, rng, columns):
        end = self.tokenizer.eos_token_id
        before = [] if rng.random() < 0.25 else [(end, 0.0, *[NONE] * len(LABELS))]
        rows = before + list(zip(*columns)) + [(end, 1.0, *[NONE] * len(LABELS))]
        return list(zip(*rows[:CONTEXT]))

    def _pad(self, documents):
        length = max(len(columns[0]) for columns in documents)
        fill = (self.tokenizer.eos_token_id, 0.0, *[NONE] * len(LABELS))
        return [torch.tensor([list(columns[i]) + [fill[i]] * (length - len(columns[i])) for columns in documents]) for i in range(len(fill))]


# -- story-gpt -----------------------------------------------------------------------------------------------------------

class WithLabels(torch.nn.Module):
    """A language model with throw-away heads that, while it learns, are told at every word who and what the text speaks of.

    Args:
        model: A GPT-2 of transformers.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(model.config.n_embd, len(numbers)) for name, numbers in LABELS.items()})

    def loss(self, batch, share=0.3):
        """Weighted next-token loss, plus `share` times the loss of the heads at the output of every layer but the last.

        Args:
            batch: From `Batches`: ids, weights and labels, each of shape [batch, sequence].
            share: Weight of the heads' losses; 0 leaves them out.

        Returns:
            The loss (scalar tensor) and the number of tokens that were predicted.
        """
        ids, weights, *labels = batch
        out = self.model(ids[:, :-1], attention_mask=torch.ones_like(ids[:, :-1]), output_hidden_states=share > 0, use_cache=False)
        target, weight = ids[:, 1:], weights[:, 1:]
        token_loss = F.cross_entropy(out.logits.transpose(1, 2), target, reduction="none")
        total = (token_loss * weight).sum() / weight.sum()
        for hidden in out.hidden_states[1:-1] if share else ():
            for head, label in zip(self.heads.values(), labels):
                known = label[:, :-1] != NONE
                if known.any():
                    total = total + share * F.cross_entropy(head(hidden[known]), label[:, :-1][known])
        return total, int((weight > 0).sum())


def new_gpt(tokenizer, layers=4, heads=4, width=128):
    """Make an untrained GPT-2 of the course's size, with an untied output and embeddings drawn wide (standard deviation 0.5)."""
    from transformers import GPT2Config, GPT2LMHeadModel
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
                        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = GPT2LMHeadModel(config)
    for embedding in (model.transformer.wte, model.transformer.wpe):
        torch.nn.init.normal_(embedding.weight, std=0.5)
    return model


def story_gpt(out, seed=0, steps=None, fresh=False):
    """Train `story-gpt` from its seed, measure it and write it to the folder `out` with its card.

    First everything (lists, facts, stories), then mostly short stories, told at a lower rate until they are right.
    """
    steps = steps or 5000
    steps_short = int(steps * 0.4)
    torch.manual_seed(seed)
    tokenizer = _resumed_tokenizer(out, fresh)
    wrapped = WithLabels(new_gpt(tokenizer))
    checkpoints = [Path(out).with_name(Path(out).name + f"-checkpoint{number}.pt") for number in ("", "-short")]
    if fresh:
        for checkpoint in checkpoints:
            checkpoint.unlink(missing_ok=True)
    print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in wrapped.model.parameters()):,} parameters")
    stories = {lang: [storyworld.story(-seed_, lang) for seed_ in range(1, 151)] for lang in words.LANGUAGES}

    def watch(step, model):
        return {f"{name} {lang}": value for lang in words.LANGUAGES for name, value in measure(model.model, tokenizer, stories[lang]).items()}

    heads = [*wrapped.heads.parameters()]
    history = training.fit(wrapped, Batches(tokenizer, seed, steps), WithLabels.loss, training.optimizers(wrapped.model, extra=heads),
                           steps, checkpoint=checkpoints[0], watch=watch)
    history += training.fit(wrapped, Batches(tokenizer, seed, steps_short, size=48, short=True), WithLabels.loss,
                            training.optimizers(wrapped.model, lr=2e-3, muon_lr=0.01, extra=heads), steps_short, checkpoint=checkpoints[1], watch=watch)
    save(wrapped.model, tokenizer, out)
    write_card(out, wrapped.model, tokenizer, history, seed=seed, steps=steps + steps_short,
               tokens=sum(_totals(history, "tokens")), seconds=sum(_totals(history, "seconds")), threads=torch.get_num_threads())


def _resumed_tokenizer(out, fresh):
    """The tokenizer of the run in `out`, so that a resumed run keeps its numbers, or a new one, written there."""
    from transformers import GPT2Tokenizer
    if not fresh and (Path(out) / "tokenizer.json").exists():
        return GPT2Tokenizer.from_pretrained(out)
    tokenizer = story_tokenizer()
    tokenizer.save_pretrained(out)
    return tokenizer


def _totals(history, name):
    """The last value of a count in each part of a history; a part ends where the step number falls."""
    return [row[name] for row, following in zip(history, history[1:] + [{"step": 0}]) if following["step"] < row["step"]]


def save(model, tokenizer, out):
    """Write the model in half precision, with its tokenizer in the layout that transformers' own classes read."""
    out = Path(out)
    tokenizer.save_pretrained(out)
    model.half().save_pretrained(out, safe_serialization=True)
    model.float()


# -- measurement: the numbers of the card ----------------------------------------------------------------------------------

PROMPTS = {
    "en": ["The weather is nice today", "Once there was a girl named", "One day, Tom and Lily", "Lily gave Tom the red ball because"],
    "zh": ["今天天气真好", "从前有个女孩叫", "有一天，汤姆和莉莉", "莉莉把红色的球给了汤姆，因为"],
}


@torch.no_grad()
def measure(model, tokenizer, stories):
    """Measure a model on stories that it has not seen.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        stories: List of `storyworld.Story`, longer ones are cut at the context.

    Returns:
        Dict with `ppl` (perplexity per token), `answers` (share of answers whose token is ranked first), `answers_last` (the same
        for a reader who always names the person, container or food that was mentioned last), and `pronouns` (share of he/she
        and 他/她 where the right one gets more probability than the other).
    """
    model.eval()
    total = tokens = 0
    answers, last, pronouns = [], [], []
    pairs = _pronoun_pairs(tokenizer)
    for told in stories:
        encoding = tokenizer(told.text, return_offsets_mapping=True)
        ids = torch.tensor([[tokenizer.bos_token_id] + encoding["input_ids"][:CONTEXT - 1]])
        logits, target = model(ids).logits[0, :-1], ids[0, 1:]
        total += F.cross_entropy(logits, target, reduction="sum").item()
        tokens += len(target)
        ends = {end for _, end in told.answers}
        for place, (start, end) in enumerate(encoding["offset_mapping"][:CONTEXT - 1]):
            if end in ends:
                answers.append(bool(logits[place].argmax() == target[place]))
            other = pairs.get(int(target[place]))
            if other is not None:
                pronouns.append(bool(logits[place, target[place]] > logits[place, other]))
        last += _last_mentioned(told)
    mean = {"answers": answers, "answers_last": last, "pronouns": pronouns}
    return {"ppl": float(torch.tensor(total / tokens).exp())} | {name: sum(hits) / len(hits) for name, hits in mean.items() if hits}


def _pronoun_pairs(tokenizer):
    pairs = {}
    for forms in (("he", "she"), (" he", " she"), ("He", "She"), (" He", " She"), ("他", "她")):
        first, second = (tokenizer(form)["input_ids"] for form in forms)
        if len(first) == len(second) == 1:
            pairs |= {first[0]: second[0], second[0]: first[0]}
    return pairs


def _last_mentioned(told):
    """For each answer: would the last person, container or food that the story mentions be right?"""
    kinds = [words.PEOPLE, words.CONTAINERS, words.FOODS]
    begin = next((start for start, _, event in told.sentences if event.kind.startswith("ask_about")), len(told.text))
    hits = []
    for start, end in told.answers:
        answer = next((m.entity for m in told.mentions if (m.start, m.end) == (start, end)), None)
        kind = next((kind for kind in kinds if answer in kind), None)
        if kind:
            seen = [m.entity for m in told.mentions if m.end <= begin and m.entity in kind]
            hits.append(seen[-1] == answer)
    return hits


@torch.no_grad()
def sample(model, tokenizer, prompt, count=10, temperature=1.0, seed=0, length=160):
    """Continue a prompt `count` times; return the texts, prompt included, up to the end of the text or `length` new tokens."""
    model.eval()
    ids = tokenizer([prompt], return_tensors="pt")
    torch.manual_seed(seed)
    out = model.generate(**ids, do_sample=True, temperature=temperature, top_k=0, num_return_sequences=count, max_new_tokens=length,
                         pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(out, skip_special_tokens=True)


def judge(model, tokenizer, lang, temperature, count=10):
    """Share of sampled continuations of `PROMPTS` that pass the story world's checker, with the samples and what is wrong."""
    texts = [text for number, prompt in enumerate(PROMPTS[lang]) for text in sample(model, tokenizer, prompt, count, temperature, number)]
    reports = [storyworld.check(text, lang) for text in texts]
    judged = [{"text": text, "problems": [list(p) for p in report.problems]} for text, report in zip(texts, reports)]
    return sum(report.ok and len(report.events) > 1 for report in reports) / len(reports), judged


def write_card(out, model, tokenizer, history, **facts):
    """Measure the model and write `card.json` (every number) and `README.md` (the card to read) beside it."""
    out = Path(out)
    card = {"name": out.name, **facts, "parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer),
            "made_with": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}, "measured": {}, "samples": {}}
    for lang in words.LANGUAGES:
        card["measured"][lang] = measure(model, tokenizer, [storyworld.story(-seed, lang) for seed in range(1001, 1501)])
        for temperature in (1.0, 0.7, 0.5):
            share, judged = judge(model, tokenizer, lang, temperature, count=25)
            card["measured"][lang][f"pass_at_temperature_{temperature}"] = share
            card["samples"][f"{lang} {temperature}"] = judged[::5]
    rounded = json.loads(json.dumps(card | {"history": history}), parse_float=lambda number: round(float(number), 4))
    (out / "card.json").write_text(json.dumps(rounded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(rounded), encoding="utf-8")


def _readme(card):
    rows = [("perplexity per token / 每词元困惑度", "ppl"), ("answers right / 问答正确率", "answers"),
            ("the same, naming what was mentioned last / 只答最后提到者", "answers_last"), ("he or she right / 他她正确率", "pronouns"),
            ("100 samples that pass the checker, temperature 1.0 / 100 个样本的合格率，温度 1.0", "pass_at_temperature_1.0"),
            ("the same at 0.7 / 温度 0.7", "pass_at_temperature_0.7"), ("the same at 0.5 / 温度 0.5", "pass_at_temperature_0.5")]
    table = "\n".join(f"| {title} | {card['measured']['en'][key]:.3f} | {card['measured']['zh'][key]:.3f} |" for title, key in rows)
    return f"""# {card['name']}

A causal language model of {card['parameters']:,} parameters (`GPT2LMHeadModel`, {card['vocabulary']:,} tokens) that tells stories of the
course's own world in English and Chinese. Trained by this repository alone: `python -m llmtutor.training {card['name']}` (seed {card['seed']},
{card['steps']:,} steps, {card['tokens']:,} tokens, {card['seconds'] / 60:.0f} minutes on {card['threads']} CPU thread(s) of a busy machine). Licence: CC BY 4.0.

一个会用中英文讲课程自有故事世界的因果语言模型，共 {card['parameters']:,} 个参数，全部由本仓库的脚本训练。许可：CC BY 4.0。

| measured on 500 unseen stories a language / 每种语言 500 篇未见过的故事 | English | 中文 |
|---|---|---|
{table}

**It was told who is who while it learned.** {len(LABELS)} throw-away linear heads predicted, at every word and after every layer but the last, which
person and which thing the text spoke of last, and what had been told of them ({', '.join(LABELS)}); the generator knows. The heads are not part of the
model, but what they taught is.
**训练时告诉了它谁是谁**：{len(LABELS)} 个训练后丢弃的线性头在每个词处预测文本最后提到的人和物，以及关于它们已知的事实。

Limits / 局限: it knows {len(words.PEOPLE)} names and a few hundred words; other words break into pieces that mean little to it. Names and sentence
patterns were not held out, only stories: the numbers say nothing about new names. Context: {CONTEXT} tokens.
它只认识 {len(words.PEOPLE)} 个名字和几百个词；测试的是新故事，不是新名字。上下文长度：{CONTEXT} 个词元。
"""


RECIPES = {"story-gpt": story_gpt}
