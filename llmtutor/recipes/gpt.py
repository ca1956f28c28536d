"""How `story-gpt` is made: documents, model, training run, measured card.

`python -m llmtutor.training story-gpt` runs `story_gpt`. Training uses the seeds from 0 up, all measurements negative seeds.
"""
import json
import math
import platform
import random
from pathlib import Path

import torch
from torch.nn import functional as F

from .. import parallel, storyworld, training
from ..storyworld import dice, grammar, words
from . import capabilities, heads
from .files import resumed_tokenizer, save
from .tokenizer import CONTEXT, story_tokenizer


# -- documents: token ids with a weight and labels for each ---------------------------------------------------------------------

def _numbers(entities):
    return {entity: number for number, entity in enumerate(entities)}


LABELS = {
    "person": _numbers(words.PEOPLE + words.NEW_PEOPLE), "thing": _numbers(grammar.THINGS), "likes": _numbers(words.FOODS),
    "dream": _numbers(words.DREAMS), "colour": _numbers(words.COLOURS), "pet": _numbers(words.PETS), "mood": _numbers(["happy", "sad"]),
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
            about = {"person": mention.entity} | dict.fromkeys(("likes", "dream", "colour", "pet", "mood"))
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


def unlabelled(text, tokenizer):
    """Encode a text of which only the words are learned: the columns of `document`, every weight 1 and no labels."""
    ids = tokenizer(text)["input_ids"]
    return [ids, [1.0] * len(ids)] + [[NONE] * len(ids) for _ in LABELS]


def repeats(rng, tokens):
    """Make a list of random tokens that is said several times: what follows a token can only be known by looking back."""
    chosen = rng.sample(tokens, rng.randint(3, 20))
    times = max(2, 44 // len(chosen))
    ids = chosen * times
    weights = [0.1] * len(chosen) + [1.0] * (len(ids) - len(chosen))
    return [ids, weights] + [[NONE] * len(ids) for _ in LABELS]


class Batches:
    """The batches of a run: `batches(step)` depends on the step and the seed alone.

    The mix changes as the run goes on: first repeated lists and small facts, then every kind of text, at last
    (while the learning rate falls) mostly short stories. The further parts of a training have one mix, with things
    that change hands and places. Documents of like length share a batch. A document begins with the end-of-text token, or
    (one in four) does not, so that a bare prompt works too. Processes that train together each make their share of the groups of batches.
    """
    EARLY = {"repeats": 20, "facts": 50, "plain": 5, "short": 15, "story": 10}
    LATER = {"repeats": 3, "facts": 15, "plain": 5, "text": 12, "short": 33, "story": 32}
    LAST = {"repeats": 2, "facts": 10, "plain": 5, "text": 11, "short": 60, "story": 12}
    FINISH = {"repeats": 6, "facts": 6, "moves": 14, "plain": 3, "text": 8, "short": 53, "story": 10}

    def __init__(self, tokenizer, seed, steps, size=32, group=16, part=0):
        self.tokenizer, self.seed, self.steps, self.size, self.group, self.part = tokenizer, seed, steps, size, group, part
        self.tokens = [i for i in range(257, len(tokenizer))]
        self._groups = {}

    def __call__(self, step):
        number, place = divmod(step, self.group)
        if number not in self._groups:
            rank, world = parallel.place()
            start = number - number % world
            self._groups = dict(enumerate(parallel.gather(self._make(start + rank)), start))
        return self._groups[number][place]

    def _make(self, number):
        rng = random.Random(f"batches {self.seed} {'finish ' * self.part}{number}")
        share = number * self.group / self.steps
        mix = self.FINISH if self.part else self.EARLY if share < 0.15 else self.LATER if share < 0.7 else self.LAST
        kinds = rng.choices(list(mix), mix.values(), k=self.size * self.group)
        documents = [self._framed(rng, self._one(rng, kind)) for kind in kinds]
        documents.sort(key=lambda columns: len(columns[0]))
        batches = [documents[i:i + self.size] for i in range(0, len(documents), self.size)]
        rng.shuffle(batches)
        return [self._pad(documents) for documents in batches]

    def _one(self, rng, kind):
        if kind == "repeats":
            return repeats(rng, self.tokens)
        told = getattr(storyworld, kind)(rng.randrange(2 ** 40), rng.choice(words.LANGUAGES))
        if kind == "text":
            return unlabelled(told.text, self.tokenizer)
        return document(told, self.tokenizer, names=kind in ("short", "plain"))

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

    share = 0.3

    def loss(self, batch, share=None):
        """Weighted next-token loss, plus `share` times the loss of the heads at the output of every layer but the last.

        Args:
            batch: From `Batches`: ids, weights and labels, each of shape [batch, sequence].
            share: Weight of the heads' losses; 0 leaves them out, None takes the module's own `share`.

        Returns:
            The loss (scalar tensor) and the number of tokens that were predicted. Of processes that train together each gives the
            summands of its own rows, so that the sum over the processes is the loss of the batch; the number is that of the whole batch.
        """
        ids, weights, *labels = batch
        rank, world = parallel.place()
        mine, share = slice(rank, None, world), self.share if share is None else share
        out = self.model.transformer(ids[mine, :-1], attention_mask=torch.ones_like(ids[mine, :-1]), output_hidden_states=share > 0, use_cache=False)
        weight = weights[:, 1:] / weights[:, 1:].sum()
        total = training.HeadLoss.apply(out.last_hidden_state.flatten(0, 1), self.model.lm_head.weight, ids[mine, 1:].flatten(), weight[mine].flatten())
        for head, label in zip(self.heads.values(), labels if share else ()):
            known, label = int((label[:, :-1] != NONE).sum()), label[mine, :-1].flatten()
            where = (label != NONE).nonzero()[:, 0]
            for hidden in out.hidden_states[1:-1] if known else ():
                scores = head(hidden.flatten(0, 1)[where])
                total = total + share / known * F.cross_entropy(scores, label[where], reduction="sum")
        return total, int((weights[:, 1:] > 0).sum())


def new_gpt(tokenizer, layers=4, heads=4, width=128):
    """Make an untrained GPT-2 of the course's size, with an untied output and embeddings drawn wide (standard deviation 0.5)."""
    from transformers import GPT2Config, GPT2LMHeadModel
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=width, n_layer=layers, n_head=heads, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh", tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id,
                        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = GPT2LMHeadModel(config)
    for embedding in (model.transformer.wte, model.transformer.wpe):
        torch.nn.init.normal_(embedding.weight, std=0.5)
    return model


PARTS = ((7500, 3e-3, 0.02), (4500, 2e-3, 0.01), (2500, 1.2e-3, 0.006))
"""The three parts of the training of `story-gpt`: steps, and the highest learning rates of AdamW and Muon, which fall to zero in each part."""


def story_gpt(out, seed=0, steps=None, fresh=False, labels=True):
    """Train `story-gpt` from its seed, measure it and write it to the folder `out` with its card.

    Args:
        out: Folder for the model; its checkpoints lie beside it.
        seed: Seed of the weights and of the batches.
        steps: Number of steps of all parts together, or None for the recipe's.
        fresh: Whether to begin again although there is a checkpoint.
        labels: Whether throw-away heads are told who is who (`WithLabels`).
    """
    share = (steps or sum(length for length, *_ in PARTS)) / sum(length for length, *_ in PARTS)
    parts = [(round(length * share), *rates) for length, *rates in PARTS]
    _launch(out, seed, parts, fresh, labels, resumed_tokenizer(out, fresh, story_tokenizer, "GPT2Tokenizer"))


def story_gpt_mini(out, seed=0, steps=None, fresh=False):
    """Train `story-gpt-mini`, a sibling of a third of the size with the same tokens, without labels: for speculative decoding and distillation.

    Arguments are those of `story_gpt`. It takes the tokenizer of the bundled `story-gpt`, so that both speak in the same tokens.
    """
    from transformers import GPT2Tokenizer
    tokenizer = GPT2Tokenizer.from_pretrained(Path(__file__).resolve().parent.parent / "bundled" / "story-gpt")
    _launch(out, seed, [(steps or 1500, *PARTS[0][1:])], fresh, False, tokenizer, {"layers": 2, "width": 64})


def _launch(*arguments):
    """Train with as many processes as PyTorch may use CPU threads."""
    parallel.launch(_train, arguments, torch.get_num_threads())


def _train(out, seed, parts, fresh, labels, tokenizer, shape=None):
    torch.manual_seed(seed)
    wrapped = WithLabels(new_gpt(tokenizer, **(shape or {})))
    wrapped.share = WithLabels.share if labels else 0.0
    rank, processes = parallel.place()
    if rank == 0:
        print(f"{len(tokenizer)} tokens, {sum(p.numel() for p in wrapped.model.parameters()):,} parameters")
    history = []
    for part, (steps, *rates) in enumerate(parts):
        history += _part(wrapped, tokenizer, out, seed, part, steps, rates, fresh, labels)
    if rank == 0:
        save(wrapped.model, tokenizer, out)
        write_card(out, wrapped.model, tokenizer, history, seed=seed, steps=sum(steps for steps, *_ in parts), labels=labels, threads=processes,
                   **{name: sum(row[name] for row in history if row["last"]) for name in ("tokens", "seconds")})


def _part(wrapped, tokenizer, out, seed, part, steps, rates, fresh, labels):
    """One part of the training, resumed from its checkpoint; the rows of its history say in `last` whether they close it."""
    checkpoint = Path(out).with_name(f"{Path(out).name}-checkpoint{f'-{part + 1}' if part else ''}.pt")
    if fresh:
        checkpoint.unlink(missing_ok=True)
    optimizers = training.optimizers(wrapped.model, *rates, extra=[*wrapped.heads.parameters()] if labels else [])
    history = training.fit(wrapped, Batches(tokenizer, seed, steps, part=part), WithLabels.loss, optimizers, steps, checkpoint=checkpoint,
                           watch=_watcher(tokenizer))
    return [row | {"last": row["step"] == steps} for row in history]


def _watcher(tokenizer):
    """What is measured every 500 steps, in both languages: `measure` on 100 stories and the tests of `capabilities`."""
    rank, world = parallel.place()
    mine = words.LANGUAGES[rank::world]
    stories = {lang: [storyworld.story(-number, lang) for number in range(1, 101)] for lang in mine}
    tests = {(test, lang): capabilities.items(test, lang, 100, seed=1) for test in capabilities.TESTS for lang in mine}

    def watch(step, model):
        found = {f"{name} {lang}": value for lang in mine for name, value in measure(model.model, tokenizer, stories[lang]).items()}
        for (test, lang), items in tests.items():
            hits, _ = capabilities.score(model.model, tokenizer, items)
            found[f"{test} {lang}"] = sum(hits) / len(hits)
        return {name: value for part in parallel.gather(found) for name, value in part.items()}

    return watch


# -- measurement: the numbers of the card ----------------------------------------------------------------------------------

PROMPTS = {
    "en": ["The weather is nice today", "Once there was a girl named", "Once there was a boy named", "One day, Tom and Lily"],
    "zh": ["今天天气真好", "从前有个女孩叫", "从前有个男孩叫", "有一天，汤姆和莉莉"],
}
"""How stories begin."""
MIDDLE = {"en": ["Lily gave Tom the red ball because"], "zh": ["莉莉把红色的球给了汤姆，因为"]}
"""A text that begins in the middle of a story, which is rare in training."""


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
def sample(model, tokenizer, prompt, count=10, temperature=1.0, seed=0, length=160, top_p=1.0):
    """Continue a prompt `count` times; return the texts, prompt included, up to the end of the text or `length` new tokens.

    With `top_p` below 1 only the likeliest tokens that together reach it may be drawn (nucleus sampling, Holtzman et al. 2020).
    """
    model.eval()
    ids = tokenizer([prompt], return_tensors="pt")
    torch.manual_seed(seed)
    out = model.generate(**ids, do_sample=True, temperature=temperature, top_k=0, top_p=top_p, num_return_sequences=count, max_new_tokens=length,
                         pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(out, skip_special_tokens=True)


def judge(model, tokenizer, lang, temperature, count=10, top_p=1.0, prompts=PROMPTS):
    """Share of sampled continuations of `prompts` that pass the story world's checker, with the samples and what is wrong."""
    texts = [text for number, prompt in enumerate(prompts[lang]) for text in sample(model, tokenizer, prompt, count, temperature, number, top_p=top_p)]
    reports = [storyworld.check(text, lang) for text in texts]
    judged = [{"text": text, "problems": [list(p) for p in report.problems]} for text, report in zip(texts, reports)]
    return sum(report.ok and len(report.events) > 1 for report in reports) / len(reports), judged


SPLITS = {"seen": {}, "new_names": {"new_names": True}, "new_templates": {"new_templates": True}}


def abilities(model, tokenizer, lang, count=200):
    """Score every test of `capabilities` on seen names, held-out names and held-out templates, each beside the simple reader."""
    found = {}
    for test in capabilities.TESTS:
        for split, options in SPLITS.items():
            hits, guesses = capabilities.score(model, tokenizer, capabilities.items(test, lang, count, seed=-2, **options))
            found[f"{test} {split}"], found[f"{test} {split} last"] = sum(hits) / count, sum(guesses) / count
    return found


def bound(tokenizer, lang, seeds):
    """The perplexity per token that the generator's own choices give (`storyworld.dice`)."""
    nats = tokens = 0
    for seed in seeds:
        told, surprise = dice.surprise(storyworld.story, seed, lang)
        nats, tokens = nats + surprise, tokens + len(tokenizer(told.text)["input_ids"])
    return math.exp(nats / tokens)


def write_card(out, model, tokenizer, history, **facts):
    """Measure the model and write `card.json` (every number) and `README.md` (the card to read) beside it."""
    out = Path(out)
    card = {"name": out.name, **facts, "parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer),
            "made_with": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]}, "measured": {}, "samples": {}}
    card["induction"], card["induction_control"] = capabilities.induction(model, tokenizer)
    for lang in words.LANGUAGES:
        found = measure(model, tokenizer, [storyworld.story(-seed, lang) for seed in range(1001, 1501)])
        found |= {"bound": bound(tokenizer, lang, range(-1500, -1000))} | abilities(model, tokenizer, lang)
        for temperature, top_p in ((1.0, 1.0), (0.7, 1.0), (0.5, 1.0), (0.5, 0.8)):
            share, judged = judge(model, tokenizer, lang, temperature, 25, top_p)
            name = f"{temperature}" + f"_top_p_{top_p}" * (top_p < 1)
            found[f"pass_at_temperature_{name}"] = share
            card["samples"][f"{lang} {name}"] = judged[::5]
        found["pass_from_the_middle"], _ = judge(model, tokenizer, lang, 0.5, 100, 0.8, MIDDLE)
        card["measured"][lang] = found
    card["named_heads"] = heads.named_heads(model, tokenizer)
    card["heads"] = heads.best(card["named_heads"])
    rounded = json.loads(json.dumps(card | {"history": history}), parse_float=lambda number: round(float(number), 4))
    (out / "card.json").write_text(json.dumps(rounded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(rounded), encoding="utf-8")


def write_spread(out, others):
    """Say in the card of the model in `out` how much the numbers depend on the seed: writes `seeds.json` and the card anew.

    Other seeds that already stand in a `seeds.json` of the same model are kept.

    Args:
        out: Folder of a trained model with its `card.json`.
        others: Folders of models that the same recipe made from other seeds.

    Raises:
        ValueError: If two have the same seed, or one was made otherwise (steps, labels, size).
    """
    cards = [json.loads((Path(folder) / "card.json").read_text(encoding="utf-8")) for folder in (out, *others)]
    for card in cards[1:]:
        different = [key for key in ("steps", "labels", "parameters", "vocabulary") if card[key] != cards[0][key]]
        if different:
            raise ValueError(f"seeds are compared within one recipe; seed {card['seed']} differs from seed {cards[0]['seed']} in {', '.join(different)}")
    kept = [{key: card[key] for key in ("seed", "tokens", "seconds", "threads", "induction", "measured")} for card in cards]
    file = Path(out) / "seeds.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if before[:1] == kept[:1]:
        kept = before + kept[1:]
    if len({row["seed"] for row in kept}) < len(kept):
        raise ValueError(f"every model must have a seed of its own; these have {[row['seed'] for row in kept]}")
    file.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (Path(out) / "README.md").write_text(_readme(cards[0], kept), encoding="utf-8")


ROWS = [("perplexity per token / 每词元困惑度", "ppl"), ("what the generator's choices give / 生成器自身的选择给出", "bound"),
        ("answers right / 问答正确率", "answers"), ("the same, naming what was mentioned last / 只答最后提到者", "answers_last"),
        ("he or she right / 他她正确率", "pronouns"),
        ("100 samples that pass the checker, temperature 1.0 / 100 个样本的合格率，温度 1.0", "pass_at_temperature_1.0"),
        ("the same at 0.7 / 温度 0.7", "pass_at_temperature_0.7"), ("the same at 0.5 / 温度 0.5", "pass_at_temperature_0.5"),
        ("the same at 0.5 with top-p 0.8 / 温度 0.5 加 top-p 0.8", "pass_at_temperature_0.5_top_p_0.8"),
        ("the same, for a text that begins in the middle of a story (“Lily gave Tom the red ball because”) / 同上，从故事中间开头（“莉莉把红色的球给了汤姆，因为”）", "pass_from_the_middle")]
TITLES = {"attribute": "what somebody likes, wants or has, 3 to 5 people / 三至五人，问某人的喜好、梦想或宠物",
          "holder": "who has it at last, 3 people / 三人之间传递，最后在谁手里", "inside": "where it is after moves / 移动之后在哪里",
          "pronoun": "the word after “her” or “his” / “她”“他”之后的词"}


def _tables(card):
    first = "\n".join(f"| {title} | {card['measured']['en'][key]:.3f} | {card['measured']['zh'][key]:.3f} |" for title, key in ROWS)
    second = "\n".join("| " + " | ".join([title] + [
        f"{card['measured'][lang][f'{test} {split}']:.2f} ({card['measured'][lang][f'{test} {split} last']:.2f})"
        for split in SPLITS for lang in words.LANGUAGES]) + " |" for test, title in TITLES.items())
    return first, second


def _spread(seeds):
    """The part of the card that tells how much the numbers depend on the seed; empty for one seed."""
    if len(seeds) < 2:
        return ""
    rows = [row for row in ROWS if row[1] not in ("bound", "answers_last")]
    for split, name, its_name in (("seen", "seen names", "见过的名字"), ("new_names", "held-out names", "未用过的名字")):
        rows += [(title.replace(" / ", f", {name} / ") + f"（{its_name}）", f"{test} {split}") for test, title in TITLES.items()]
    lines = []
    for title, key in rows:
        each = [[round(seed["measured"][lang][key], 2) for seed in seeds] for lang in words.LANGUAGES]
        lines.append(f"| {title} | " + " | ".join(f"{' / '.join(f'{value:.2f}' for value in values)} | {max(values) - min(values):.2f}" for values in each) + " |")
    table = "\n".join(lines)
    return f"""
The same recipe from {len(seeds)} seeds ({', '.join(str(seed['seed']) for seed in seeds)}; the first is the model here), and the distance from the least to the greatest:
同一配方用 {len(seeds)} 个随机种子各训练一次（第一个就是这里的模型），以及最大值与最小值之差：

| | English | spread / 极差 | 中文 | spread / 极差 |
|---|---|---|---|---|
{table}
"""


def _readme(card, seeds=()):
    first, second = _tables(card)
    told = f"""**It was told who is who while it learned.** {len(LABELS)} throw-away linear heads predicted, at every word and after every layer but the last, which
person and which thing the text spoke of last, and what had been told of them ({', '.join(LABELS)}); the generator knows. The heads are not part of the
model, but what they taught is. Without them the same model stayed near chance on look-ups for as long as we tried (`docs/models.md`).
**训练时告诉了它谁是谁**：{len(LABELS)} 个训练后丢弃的线性头在每个词处预测文本最后提到的人和物，以及关于它们已知的事实。不用这些头，同样的模型在我们试过的训练量内一直学不会查找。"""
    return f"""# {card['name']}

A causal language model of {card['parameters']:,} parameters (`GPT2LMHeadModel`, {card['vocabulary']:,} tokens) that tells stories of the
course's own world in English and Chinese. Trained by this repository alone: `python -m llmtutor.training {card['name']}` (seed {card['seed']},
{card['steps']:,} steps, {card['tokens']:,} tokens, {card['seconds'] / 60:.0f} minutes on {card['threads']} CPU thread(s) of a busy machine). Licence: CC BY 4.0.

一个会用中英文讲课程自有故事世界的因果语言模型，共 {card['parameters']:,} 个参数，全部由本仓库的脚本训练。许可：CC BY 4.0。

| measured on 500 unseen stories a language / 每种语言 500 篇未见过的故事 | English | 中文 |
|---|---|---|
{first}

Right at once (the likeliest of all tokens), 200 fresh texts each; in brackets a reader who names what was mentioned last.
一次答对的比例，每格 200 篇新文本；括号里是只答最后提到者的读者。

| ability / 能力 | seen names en | 见过的名字 zh | held-out names en | 未用过的名字 zh | held-out patterns en | 未见过的句式 zh |
|---|---|---|---|---|---|---|
{second}
{_spread(seeds)}
A list of random words said twice: {card['induction']:.2f} of the second saying is foreseen; {card['induction_control']:.2f} where nothing is repeated.
随机词列表说两遍，第二遍的预测正确率为 {card['induction']:.2f}；不重复的列表为 {card['induction_control']:.2f}。

{heads.table(card['named_heads'])}

Heads are chosen on one half of the texts and scored on the other. Score: attention on the right token; for pronouns and answers the share of (right, other) pairs
in which the right one gets more (area under the curve). Removing a head costs this much loss, in nats a token.
选头与评分各用一半文本。得分是落在正确词元上的注意力；代词与答案两行是正确者比其他候选得到更多注意力的比例（曲线下面积）。损失以每词元的奈特计。

{told if card['labels'] else ''}

Limits / 局限: it has met {len(words.PEOPLE)} names in every kind of text, {len(words.NEW_PEOPLE)} more in plain stories only (held out: never with a fact or a question), and about a thousand words;
other words break into pieces that mean little to it. Context: {CONTEXT} tokens.
{len(words.PEOPLE)} 个名字它在各种文本里都见过；另有 {len(words.NEW_PEOPLE)} 个名字只在平淡的短文里见过，从未和事实或问题一起出现。它认识约一千个词。上下文长度：{CONTEXT} 个词元。
"""
