"""How `story-gpt-instruct` is made: requests, a LoRA adapter over `story-gpt`, training run, measured card.

`python -m llmtutor.training story-gpt-instruct` runs `story_gpt_instruct`. Training uses the seeds from 0 up, all measurements negative
seeds. The requests and their scores are those of notebook 04, whose live tuning is a short form of this one.
"""
import json
import platform
import random
import re
from pathlib import Path
from typing import NamedTuple

import torch

from .. import models, storyworld, training
from ..storyworld import pairs as paired
from ..storyworld import words
from .tasks import share
from .tokenizer import CONTEXT

BASE = "story-gpt"
IGNORED = -100          # a label that the loss leaves out
SAY = {"continue": ("Please continue: ", "请续写："), "answer": ("Please answer: ", "请回答："), "translate": ("Please translate: ", "请翻译：")}
CONSTANT = {"en": "They talked for a long time.", "zh": "他们聊了很久。"}


# -- requests --------------------------------------------------------------------------------------------------------------------

class Request(NamedTuple):
    """One request: its task ("continue", "answer", "translate"), the language of `asked`, what is asked, the right replies (one of them is
    enough; for "continue" only the reply that the story itself goes on with) and how many values the facts of an answer tell."""
    task: str
    lang: str
    asked: str
    replies: frozenset
    told: int = 0

    @property
    def prompt(self):
        """The text that the model reads."""
        return SAY[self.task][words.LANGUAGES.index(self.lang)] + self.asked + "\n"


def continuation(seed, lang, new_names=False):
    """The beginning of a short story, cut after one of its sentences; the right reply is the next one, or any that fits."""
    told = storyworld.short(seed, lang, new_names=new_names)
    ends = [end for _, end, _ in told.sentences if "\n" not in told.text[:end]]
    at = random.Random(seed).randrange(2, len(ends))
    return Request("continue", lang, told.text[:ends[at - 1]], frozenset({told.text[ends[at - 1]:ends[at]].strip()}))


def answering(seed, lang, new_names=False, which=0):
    """Small facts about two to five people and question number `which` about them (they are in random order)."""
    told, *lines = storyworld.facts(seed, lang, new_names=new_names).text.split("\n")
    question, answer = re.fullmatch("(?:Question: |问：)(.*?)(?: Answer: |答：)(.*)", lines[which % len(lines)]).groups()
    return Request("answer", lang, told + (" " if lang == "en" else "") + question, frozenset({answer}), len(lines))


def translating(seed, lang, new_names=False, tell=storyworld.short):
    """One sentence of a story, to be said in the other language; "they" may have two right translations."""
    pair = random.Random(seed).choice([pair for pair in paired.pairs(seed, (1,), tell, new_names=new_names) if "?" not in pair.en])
    return Request("translate", lang, pair.text(lang), frozenset(paired.references(pair, "zh" if lang == "en" else "en")))


TASKS = {"continue": continuation, "answer": answering, "translate": translating}


def is_right(request, reply):
    """Is a reply right: letter for letter one of the right ones, or, for a continuation, one sentence in which the world's checker finds no fault?

    Args:
        request: A `Request`.
        reply: What a model wrote.
    """
    if request.task != "continue":
        return reply in request.replies
    report = storyworld.check(request.asked + (" " if request.lang == "en" else "") + reply, request.lang)
    return bool(reply) and report.ok and not report.rest.strip()


def row(tokenizer, prompt, reply):
    """Token ids of a prompt with its reply and the end-of-text token, and the labels: -100 for the prompt, because only the reply is learned.

    An English reply begins with a space, because the pieces of English words do: " Oscar" is one token, "Oscar" is three.
    """
    reply = " " + reply if prompt and reply.isascii() else reply
    ids, new = tokenizer(prompt)["input_ids"], [*tokenizer(reply)["input_ids"], tokenizer.eos_token_id]
    return (ids + new)[:CONTEXT], ([IGNORED] * len(ids) + new)[:CONTEXT]


class Requests:
    """The batches of a run: `batches(step)` depends on the step and the seed alone.

    Most rows are translations, the one thing that the base cannot do at all; one row in seven is a whole text ("replay"), so that the model goes on
    telling stories and keeps the names that only plain texts hold. Rows of like length share a batch.
    """
    MIX = {"translate": 60, "answer": 18, "continue": 8, "story": 14}

    def __init__(self, tokenizer, seed, size=32, group=16):
        self.tokenizer, self.seed, self.size, self.group = tokenizer, seed, size, group
        self._number, self._batches = None, []

    def __call__(self, step):
        number, place = divmod(step, self.group)
        if number != self._number:
            self._number, self._batches = number, self._make(number)
        return pad(self._batches[place], self.tokenizer.eos_token_id)

    def _make(self, number):
        rng = random.Random(f"requests {self.seed} {number}")
        rows = [self._row(rng, kind) for kind in rng.choices(list(self.MIX), self.MIX.values(), k=self.size * self.group)]
        rows.sort(key=lambda each: len(each[0]))
        batches = [rows[i:i + self.size] for i in range(0, len(rows), self.size)]
        rng.shuffle(batches)
        return batches

    def _row(self, rng, kind):
        seed, lang = rng.randrange(2 ** 40), rng.choice(words.LANGUAGES)
        if kind == "story":
            return row(self.tokenizer, "", rng.choice((storyworld.short, storyworld.plain))(seed, lang).text)
        options = {"translate": {"tell": rng.choice((storyworld.short, storyworld.story))}, "answer": {"which": rng.randrange(5)}}
        request = TASKS[kind](seed, lang, **options.get(kind, {}))
        return row(self.tokenizer, request.prompt, min(request.replies))


def pad(rows, fill):
    """Rows of (ids, labels) as two tensors of shape [rows, longest]; labels are -100 where there is nothing to learn."""
    length = max(len(ids) for ids, _ in rows)
    return (torch.tensor([ids + [fill] * (length - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in rows]))


# -- the adapter -----------------------------------------------------------------------------------------------------------------

def adapter(model, rank):
    """Put a LoRA detour of `peft` beside every matrix of the blocks; only the detours learn."""
    from peft import LoraConfig, get_peft_model
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM"))


def reply_loss(model, batch):
    """Mean next-token loss over the replies, and the number of their tokens."""
    ids, labels = batch
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1]       # padding comes last: nothing looks at it
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()), int((labels != IGNORED).sum())


STEPS, RANK, RATE = 2000, 32, 5e-3
COUNT = 200             # requests of each kind, language and kind of names that the card is measured on


def story_gpt_instruct(out, seed=0, steps=None, fresh=False):
    """Train the adapter `story-gpt-instruct` from its seed, measure it beside its controls and write it to the folder `out` with its card."""
    steps = steps or STEPS
    torch.manual_seed(seed)
    base = models.load(BASE)
    model = adapter(base.model, RANK)
    learned = [p for p in model.parameters() if p.requires_grad]
    checkpoint = Path(out).with_name(Path(out).name + "-checkpoint.pt")
    if fresh:
        checkpoint.unlink(missing_ok=True)
    print(f"{sum(p.numel() for p in learned):,} of {base.info.n_params:,} numbers learn")

    def watch(step, model):
        asked = {(task, lang, new): exam(task, lang, new, min(COUNT, 30)) for task in TASKS for lang in words.LANGUAGES for new in (False, True)}
        return {f"{task} {lang}{' new' * new}": score(write(model, base.tokenizer, some), some).mean for (task, lang, new), some in asked.items()}

    history = training.fit(model, Requests(base.tokenizer, seed), reply_loss, [torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)], steps,
                           checkpoint=checkpoint, watch=watch)
    save(model, out)
    write_card(out, history, seed=seed, steps=steps, tokens=history[-1]["tokens"], seconds=history[-1]["seconds"],
               threads=torch.get_num_threads(), rank=RANK, adapter_parameters=sum(p.numel() for p in learned))


def save(model, out):
    """Write the adapter in half precision, with the name of the base and no path of this machine."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in model.peft_config["default"].to_dict().items()}
    config |= {"base_model_name_or_path": BASE, "inference_mode": True}
    (out / models.ADAPTER).write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
    save_file({name: value.half().contiguous() for name, value in get_peft_model_state_dict(model).items()}, out / "adapter_model.safetensors")


# -- measurement: the numbers of the card ------------------------------------------------------------------------------------------

def exam(task, lang, new_names, count=None):
    """Requests that no run has seen: `count` for one task and language, about people that requests speak of or about held-out ones."""
    return [TASKS[task](-1 - k, lang, new_names) for k in range(count or COUNT)]


@torch.no_grad()
def write(model, tokenizer, requests, longest=40, size=50):
    """The replies that a model writes greedily; prompts of one batch are padded on the left, so that all end at the same place."""
    model.eval()
    said = []
    for begin in range(0, len(requests), size):
        rows = [tokenizer(request.prompt)["input_ids"] for request in requests[begin:begin + size]]
        width, end = max(map(len, rows)), tokenizer.eos_token_id
        ids = torch.tensor([[end] * (width - len(each)) + each for each in rows])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in rows])
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, pad_token_id=end, do_sample=False)
        said += [tokenizer.decode(each[width:], skip_special_tokens=True).strip() for each in out]
    return said


def score(replies, requests):
    """The share of right replies with its 95 % interval (`tasks.Share`)."""
    return share([[int(is_right(request, reply))] for request, reply in zip(requests, replies, strict=True)])


def control(requests):
    """The share that a reader without a model gets right: for "answer" one of the told values, picked at random; for "continue" always the same
    sentence; for "translate" there is no such reader, and None comes back."""
    task = requests[0].task
    if task == "translate":
        return None
    return share([[1 / request.told if task == "answer" else int(is_right(request, CONSTANT[request.lang]))] for request in requests])


def by_question(replies, requests):
    """Answers apart: `who` (the reply is a name) and `other` questions, and how often a `who` is answered with a person that was not spoken of.

    Returns:
        Dict of `Share`.
    """
    people = [getattr(person, requests[0].lang) for person in words.PEOPLE + words.NEW_PEOPLE]
    who = [("Who " in request.asked or "谁" in request.asked) for request in requests]
    rows = list(zip(requests, replies, who, strict=True))
    return {"who": share([[int(is_right(request, reply))] for request, reply, name in rows if name]),
            "other": share([[int(is_right(request, reply))] for request, reply, name in rows if not name]),
            "outsider": share([[int(reply.rstrip(".。") in people and reply.rstrip(".。") not in request.asked)] for request, reply, name in rows if name])}


@torch.no_grad()
def story_loss(model, tokenizer, count=None):
    """Mean loss a token, in nats, on unseen short stories of both languages: what is left of the old task."""
    rows = [row(tokenizer, "", storyworld.short(-1 - seed, lang).text) for seed in range(count or min(COUNT, 60)) for lang in words.LANGUAGES]
    return reply_loss(model.eval(), pad(rows, tokenizer.eos_token_id))[0].item()


def translator_replies(requests):
    """What `story-translator` makes of requests to translate, all in one language."""
    from .translator import translate
    other = models.load("story-translator")
    return translate(other.model, other.tokenizer, [request.asked for request in requests], "zh" if requests[0].lang == "en" else "en")


def measure_instruct(lm, base):
    """Measure a model that follows requests beside its base and its controls.

    Args:
        lm, base: What `models.load` returns.

    Returns:
        Dict: for each "task language names" a dict of `Share`: `model`, `base`, `control` and, for "translate", `translator`; for each
        "questions language names" what `by_question` gives for the model; and `story_loss` of both.
    """
    found = {}
    for task in TASKS:
        for lang in words.LANGUAGES:
            for names in ("seen", "held-out"):
                asked = exam(task, lang, names == "held-out")
                said = write(lm.model, lm.tokenizer, asked)
                rows = {"model": score(said, asked), "base": score(write(base.model, base.tokenizer, asked), asked)}
                rows |= {"translator": score(translator_replies(asked), asked)} if task == "translate" else {"control": control(asked)}
                found[f"{task} {lang} {names}"] = {name: value._asdict() for name, value in rows.items()}
                if task == "answer":
                    found[f"questions {lang} {names}"] = {name: value._asdict() for name, value in by_question(said, asked).items() if value}
    return found | {"story_loss": {"model": story_loss(lm.model, lm.tokenizer), "base": story_loss(base.model, base.tokenizer)}}


def samples(lm, count=4):
    """Requests about held-out people with the replies, to be read."""
    asked = [request for task in TASKS for lang in words.LANGUAGES for request in exam(task, lang, True, count)]
    return [{"prompt": request.prompt, "reply": reply, "right": bool(is_right(request, reply))}
            for request, reply in zip(asked, write(lm.model, lm.tokenizer, asked))]


def write_card(out, history, **facts):
    """Load the adapter from `out`, measure it and write `card.json` (every number) and `README.md` (the card to read) beside it."""
    out = Path(out)
    lm, base = models.load(out), models.load(BASE)
    card = {"name": out.name, "base": BASE, **facts, "parameters": lm.info.n_params,
            "made_with": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
            "measured": measure_instruct(lm, base), "requests": COUNT, "samples": samples(lm), "history": history}
    rounded = json.loads(json.dumps(card), parse_float=lambda number: round(float(number), 4))
    (out / "card.json").write_text(json.dumps(rounded, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(rounded), encoding="utf-8")


def _readme(card):
    measured, loss = card["measured"], card["measured"]["story_loss"]

    def cell(key, who):
        found = measured[key].get(who)
        return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})" if found else "-"

    titles = {"continue": "continue: no contradiction / 续写，不自相矛盾", "answer": "answer / 回答", "translate": "translate / 翻译"}
    others = {"continue": "control", "answer": "control", "translate": "translator"}
    table = "\n".join(f"| {titles[task]} | {lang} | " + " | ".join(
        cell(f"{task} {lang} {names}", who) for names in ("seen", "held-out") for who in ("model", others[task])) + f" | {cell(f'{task} {lang} held-out', 'base')} |"
        for task in TASKS for lang in words.LANGUAGES)
    questions = "\n".join(f"| {lang} | " + " | ".join(cell(f"questions {lang} held-out", who) for who in ("who", "other", "outsider")) + " |" for lang in words.LANGUAGES)
    return f"""# {card['name']}

A LoRA adapter (rank {card['rank']}, {card['adapter_parameters']:,} numbers) over `{card['base']}` ({card['parameters']:,}) that follows three kinds of request in English and Chinese:
go on with a story, answer a question about a few facts, translate a sentence. The loader adds it to the base: `lt.load("{card['name']}")`. Trained by this repository
alone: `python -m llmtutor.training {card['name']}` (seed {card['seed']}, {card['steps']:,} steps, {card['tokens']:,} learned tokens, {card['seconds'] / 60:.0f} minutes on {card['threads']}
CPU thread(s) of a busy machine). Licence: CC BY 4.0.

`{card['base']}` 的 LoRA 适配器（秩 {card['rank']}，{card['adapter_parameters']:,} 个数），会照办三种中英文请求：续写故事、根据几个事实回答问题、翻译一个句子。载入时自动合并到原模型里。
全部由本仓库的脚本训练。许可：CC BY 4.0。

A request is one line, the reply the next; the reply ends with the end-of-text token. 请求占一行，回复在下一行，以文本结束词元收尾。
```
Please translate: Lily wanted to be a baker.
莉莉想当面包师。
```

| {card['requests']} requests a cell, 95 % intervals / 每格 {card['requests']} 个请求，括号内为 95 % 区间 | asked in / 提问语言 | known names / 已知的名字 | beside it / 对照 | held-out names / 留出的名字 | beside it / 对照 | {card['base']} alone / 未微调 |
|---|---|---|---|---|---|---|
{table}

| held-out names: answers to / 留出的名字，回答 | *who* / 问“谁” | other questions / 别的问题 | *who* answered with somebody not spoken of / 问“谁”却答了文中没有的人 |
|---|---|---|---|
{questions}

Beside it: for *answer* one of the told values picked at random; for *continue* the same sentence every time ("{CONSTANT['en']}"); for *translate* `story-translator`, which has met
the held-out names in plain sentences of both languages. *Held-out names* occur in no request of the training. Answers and translations must be right letter for letter.
对照：*回答*是从说到过的值里随机挑一个；*续写*是每次都接同一句“{CONSTANT['zh']}”；*翻译*是 `story-translator`，它在两种语言的平淡句子里见过留出的名字。*留出的名字*在训练用的请求里从未出现。回答和翻译须逐字正确。

Loss on unseen short stories, nats a token: {loss['model']:.3f}; `{card['base']}`: {loss['base']:.3f}. 未见过的短篇故事上的损失（奈特每词元）：{loss['model']:.3f}；原模型：{loss['base']:.3f}。

Limits / 局限: it follows these three requests in these words only. It has learned to *write* only the names that the requests of its training held: others it reads well (what do they like?), but asked *who*, it mostly names a
person it knows, although nobody spoke of them, and most sentences with such a name are translated with another. A continuation fits no more often than one sentence said every time.
Sentences of the story world are short and few in kind: four of ten of the test sentences with known names occurred in the training, too.
它只懂这三种请求、这几种说法。它只学会了*写出*训练请求里出现过的名字：别的名字读得懂（问他们喜欢什么，答得对），可是问“谁”的时候，它多半答一个自己认识、文中却没有提到的人；含这种名字的句子，译文里的名字也大多换了人。
续写并不比每次都接同一句话更合适。故事世界的句子又短、句式又少：含已知名字的测试句子，十句里有四句在训练中也出现过。
"""
