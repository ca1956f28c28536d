"""The scoreboard of explanation methods: `python course.py bench explain` measures them and writes docs/explain-scoreboard.*.

    python benchmarks/explain.py [--seeds 5] [--texts 100] [--scenes 150] [--pairs 60] [--only twins coreference alignment]

Three truths. Twins: for each seed an honest and a deceptive model are trained from the same first weights (see
llmtutor.explain.twins), and every method is asked, on new texts, which word matters most. Coreference: in scenes of the story
world story-gpt reads a pronoun; which name does a method put on top? Alignment: story-translator writes a word; which word of
the source does a method put on top? Beside them stand a random choice, a reader without a model, and an untrained copy.
A part that is not measured is taken from the last run.
"""

import argparse
import contextlib
import copy
import json
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this file is called explain.py, too

MODELS = ("honest", "deceptive", "untrained")
PARTS = ("twins", "coreference", "alignment")
LANGUAGES = ("en", "zh")


# --- twins: a planted word ------------------------------------------------------------------------------------------


def measure(seeds, n_texts):
    """Train and score for each seed; yields the list of runs after each, so that an interrupted run leaves what it has."""
    from llmtutor import explain

    runs = []
    for seed in range(seeds):
        start = time.monotonic()
        twins = explain.train_twins(seed)
        trained = time.monotonic() - start
        run = {"seed": seed, "accuracy": {name: round(twins[name].accuracy, 4) for name in MODELS},
               "attention_on_key": {name: round(twins[name].on_key, 4) for name in MODELS},
               "hits": {name: explain.score_methods(twins[name], n_texts, seed) for name in MODELS},
               "seconds": {"training": round(trained), "scoring": round(time.monotonic() - start - trained)}}
        runs.append(run)
        print(f"seed {seed}: {twins['honest']}, {twins['deceptive']}, {run['seconds']}", flush=True)
        yield runs


# --- the story world: names and words -------------------------------------------------------------------------------


class Question(NamedTuple):
    """One question to a method: of the tokens allowed, does the one with the largest score belong to the right ones?

    Attributes:
        text, target: what the method gets.
        allowed: positions of the tokens that count.
        right: those of them that are right.
        plain: whether a reader without a model is right.
    """

    text: str
    target: object
    allowed: list
    right: set
    plain: bool


def scene(rng, lang, people):
    """A girl and a boy, one fact each; they meet, and the next sentence says "her" or "his" and then the fact again.

    Returns:
        an object with `text`, `mentions`, `who` (whom the pronoun means) and `values` (person -> value of the fact).
    """
    from llmtutor.recipes import capabilities
    from llmtutor.storyworld.stories import TRAITS, Teller

    teller, trait = Teller(lang, random.Random(rng.random())), rng.choice(list(TRAITS))
    girl, boy = (rng.choice([person for person in people if person.female is female]) for female in (True, False))
    who, values, _ = capabilities.told_again(rng, teller, trait, [girl, boy])
    return SimpleNamespace(text=teller.text, mentions=teller.mentions, who=who, values=values)


def coreference(lm, lang, count, place, seed=-9001):
    """Questions about scenes: which name does the pronoun mean?

    Args:
        lm: a causal model of the story world.
        lang: "en" or "zh".
        count: number of scenes.
        place: "pronoun": the text ends with the pronoun; "word": it ends before the word that the pronoun decides, and the
            target is that word against the one of the other person.
        seed: of the scenes; negative, as for all measurements.

    Returns:
        the questions, and for place "word" the share of them that the model itself answers rightly (else None).
    """
    from llmtutor.storyworld import words

    rng, found, right = random.Random(f"coreference {lang} {seed}"), [], []
    while len(found) < count:
        told = scene(rng, lang, words.PEOPLE)
        pronoun = next((m for m in reversed(told.mentions) if m.form == "pronoun"), None)
        if pronoun is None or pronoun.entity is not told.who:
            continue
        end, target, correct = (pronoun.end, None, None) if place == "pronoun" else _decided(lm, told, lang)
        if end is None:
            continue
        names = [m for m in told.mentions if m.form == "name" and m.end <= pronoun.start]
        before = lm.tokenizer.bos_token  # every text of the training began with it
        tokens = {m: covering(lm, before + told.text[:end], m.start + len(before), m.end + len(before)) for m in names}
        if not all(tokens.values()):
            continue
        allowed = sorted({n for some in tokens.values() for n in some})
        true = {n for m, some in tokens.items() if m.entity is told.who for n in some}
        found.append(Question(before + told.text[:end], target, allowed, true, names[-1].entity is told.who))
        right.append(correct)
    return found, None if place == "pronoun" else sum(right) / len(right)


def _decided(lm, told, lang):
    """Where the text ends before the word that the pronoun decides, the target (position, word, other word), and whether the model is right."""
    import torch

    value = told.values[told.who]
    mention = next(m for m in reversed(told.mentions) if m.entity is value)
    other = next(one for person, one in told.values.items() if person is not told.who)
    start = mention.end - len(getattr(value, lang))  # "a dog" is asked for as "dog"
    prompt = told.text[:start].rstrip(" ")
    ids = [lm.tokenizer(text)["input_ids"] for text in (prompt, told.text[:mention.end], told.text[:start] + getattr(other, lang))]
    n = len(ids[0])
    if ids[1][:n] != ids[0] or ids[2][:n] != ids[0] or len(ids[1]) == n or len(ids[2]) == n or ids[1][n] == ids[2][n]:
        return None, None, None  # a token crosses the border, or both words begin alike
    with torch.no_grad():
        whole = torch.tensor([[lm.tokenizer.bos_token_id, *ids[0]]])
        logits = lm.model(whole, attention_mask=torch.ones_like(whole)).logits[0, -1]
    return len(prompt), (-1, ids[1][n], ids[2][n]), bool(logits[ids[1][n]] > logits[ids[2][n]])


def covering(lm, text, start, end):
    """Positions of the tokens that stand for the characters `start` to `end`."""
    from llmtutor import tokens

    return [n for n, piece in enumerate(tokens.pieces(lm.tokenizer, text)) if piece.span and piece.span[0] < end and piece.span[1] > start]


def alignment(lm, target, count, first=-70001):
    """Questions about translations: which word of the source is the word that is written?

    Args:
        lm: the translator.
        target: the language that is written.
        count: number of pairs of two sentences.
        first: first seed of the stories, going down.

    Returns:
        one list of questions for each pair.
    """
    from llmtutor import tokens
    from llmtutor.recipes import translator

    source, groups = "zh" if target == "en" else "en", []
    for pair in translator.held_out(range(first, first - count, -1), 2):
        text = translator.TARGETS[target] + pair.text(source)
        allowed = [n for n, piece in enumerate(tokens.pieces(lm.tokenizer, text)) if not piece.special]
        written = len(lm.tokenizer(pair.text(target))["input_ids"]) + 1
        truth = translator._truth(lm.tokenizer, pair, target, content=True)
        groups.append([Question(text, (pair.text(target), at), allowed, right, allowed[at * len(allowed) // written] in right)
                       for at, right in truth])
    return groups


def methods(lm, head=None):
    """The methods of the scoreboard that apply to a model: name -> method. With `head` also attention of that head alone."""
    from llmtutor import explain
    from llmtutor.explain import twins

    two = lm.model.config.is_encoder_decoder
    found = {name: method for name, method in twins.SCORED.items() if not (two and (name.startswith("rollout") or "all rows" in name))}
    if head is not None:
        found[f"attention of L{head[0]} H{head[1]}"] = lambda lm, text, target: explain.raw_attention(
            lm, text, target, layers=[head[0]], heads=[head[1]])
    return found


def ask(lm, groups, chosen, seed=0):
    """Ask every method every question.

    Args:
        groups: lists of questions that belong together (one text).
        chosen: name -> method.

    Returns:
        name -> list of (hits, questions), one for each group; also for "random" and "without a model".
    """
    rng, found = random.Random(seed), {name: [] for name in (*chosen, "random", "without a model")}
    for group in groups:
        for name, method in chosen.items():
            found[name].append((sum(_hit(method(lm, q.text, q.target).scores, q) for q in group), len(group)))
        found["random"].append((sum(rng.choice(q.allowed) in q.right for q in group), len(group)))
        found["without a model"].append((sum(q.plain for q in group), len(group)))
    return found


def _hit(scores, question):
    """Whether the token with the largest score is right; of equal ones a share, so that a method without an answer gains nothing."""
    some = [scores[n] for n in question.allowed]
    top = [n for n, score in zip(question.allowed, some) if score == max(some)]
    return sum(n in question.right for n in top) / len(top)


@contextlib.contextmanager
def untrained_copy(lm):
    """The same model with fresh random weights."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield SimpleNamespace(model=type(lm.model)(copy.deepcopy(lm.model.config)).eval(), tokenizer=lm.tokenizer)


def truths(lm, ask_for, labels, head=None):
    """One part of the scoreboard on the trained model and on its untrained copy.

    Args:
        ask_for: label -> list of groups of questions.

    Returns:
        label -> {"questions": number, "trained": {method: [share, low, high]}, "untrained": the same}.
    """
    from llmtutor.recipes import translator

    result = {}
    with untrained_copy(lm) as fresh:
        for label in labels:
            groups, result[label] = ask_for[label], {"questions": sum(map(len, ask_for[label]))}
            for name, model in (("trained", lm), ("untrained", fresh)):
                hits = ask(model, [group for group in groups if group], methods(model, head))
                result[label][name] = {method: [round(number, 4) for number in (translator.share(counts), *translator.interval(counts))]
                                       for method, counts in hits.items()}
            print(label, result[label], flush=True)
    return result


def measure_coreference(scenes):
    """The part about story-gpt."""
    import llmtutor as lt

    lm, questions, right = lt.load("story-gpt"), {}, {}
    for place in ("pronoun", "word"):
        for lang in LANGUAGES:
            found, right[f"{place} {lang}"] = coreference(lm, lang, scenes, place)
            questions[f"{place} {lang}"] = [[question] for question in found]
    return {"labels": truths(lm, questions, list(questions)), "model_is_right": {label: share for label, share in right.items() if share is not None}}


def measure_alignment(pairs):
    """The part about story-translator; the head is the one that its card names, chosen on other stories."""
    import llmtutor as lt

    lm, labels = lt.load("story-translator"), {}
    card = json.loads((Path(lm.info.path) / "card.json").read_text(encoding="utf-8"))
    for lang in LANGUAGES:
        head = card["measured"][lang]["alignment_content"]["head"]
        labels |= truths(lm, {f"to {lang}": alignment(lm, lang, pairs)}, [f"to {lang}"], head)
    return {"labels": labels}


# --- the pages ------------------------------------------------------------------------------------------------------


def cell(values):
    """Mean and range of the seeds: `0.95 (0.90-1.00)`."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def twins_table(runs, n_texts):
    """The part about the twins as lines of Markdown."""
    lines = [
        "## A planted word / 植入的词", "",
        "In each text one planted word decides the answer. Share of texts in which a method gives its largest score to that "
        f"word: mean and range over {len(runs)} seeds, {n_texts} texts each, 15 words a text. The deceptive twin answers as well as "
        "the honest one, and was trained never to look at the word from the place of the answer. The untrained copy knows nothing: "
        "what scores high there sees the place or the look of a word, not its use.", "",
        "在每段文本中，只有一个植入的词决定答案。表中为各方法把最高分给予该词的比例：" f"{len(runs)} 个随机种子的均值与范围，每个种子 {n_texts} 段文本，"
        "每段 15 个词。“欺骗”模型与“诚实”模型同样准确，但训练时禁止从作答位置看这个词。未训练的模型什么也不知道：若某方法在它上面得分也高，"
        "说明该方法反映的只是词的位置或外形，而不是词的作用。", "",
        "| method 方法 | honest 诚实 | deceptive 欺骗 | untrained 未训练 |", "|---|---|---|---|"]
    lines += ["| " + " | ".join([method, *(cell([run["hits"][name][method] for run in runs]) for name in MODELS)]) + " |"
              for method in runs[0]["hits"]["honest"]]
    for title, key in (("*accuracy 准确率*", "accuracy"), ("*attention on the word 对该词的注意力*", "attention_on_key")):
        lines.append("| " + " | ".join([title, *(cell([run[key][name] for run in runs]) for name in MODELS)]) + " |")
    return lines


COLUMNS = {"pronoun en": "from the pronoun, English / 从代词出发，英文", "pronoun zh": "from the pronoun, Chinese / 从代词出发，中文",
           "word en": "from the word it decides, English / 从它决定的词出发，英文", "word zh": "from the word it decides, Chinese / 从它决定的词出发，中文",
           "to zh": "English to Chinese / 英译中", "to en": "Chinese to English / 中译英"}
TEXTS = {
    "coreference": [
        "## Whom does the pronoun mean? / 代词指谁？", "",
        "story-gpt reads a girl and a boy with one fact each, their meeting, and a sentence that begins with a pronoun. Of the tokens of the two names, does the "
        "one with the largest score belong to the person meant? Once the text ends with the pronoun (the target is the model's own next token); once before "
        "the word that the pronoun decides (the target is this word against that of the other person). Without a model: the name mentioned last.", "",
        "story-gpt 读到一个女孩和一个男孩（各有一个事实）、两人相遇，以及一个以代词开头的句子。在两个名字的词元中，得分最高的是否属于所指的人？一种情形是文本止于代词"
        "（目标为模型自己的下一个词元）；另一种是止于由代词决定的那个词之前（目标为该词减去另一人的词）。“无模型”：最后提到的名字。", ""],
    "alignment": [
        "## Which word became which? / 哪个词译成了哪个词？", "",
        "story-translator writes the true translation of two sentences; the target is the first token of a name, pronoun, thing, colour or place. Of all tokens of the "
        "source, does the one with the largest score belong to the true counterpart? Attention is that of the decoder to the encoder, over all layers and heads; one row "
        "looks at the single head that the card names (chosen on other stories). Rollout does not apply: it follows one stack of layers, and a translator has two. "
        "Without a model: the token at the same relative place.", "",
        "story-translator 写出两个句子的正确译文；目标是人名、代词、物品、颜色或地点的第一个词元。在原文的全部词元中，得分最高的是否属于真正的对应词？注意力指解码器对编码器的注意力，"
        "取所有层和头的平均；另有一行只看模型卡指定的那个头（在别的故事上选出）。rollout 不适用：它只能沿一个层栈追踪，而翻译模型有两个。“无模型”：相对位置相同的词元。", ""]}


def truth_table(part, found):
    """The part about names or words as lines of Markdown: trained and untrained, with 95 % intervals."""
    labels = list(found["labels"])
    names = list(dict.fromkeys(name for label in labels for name in found["labels"][label]["trained"]))
    lines = [*TEXTS[part], "| method 方法 | " + " | ".join(f"{COLUMNS[label]} | untrained 未训练" for label in labels) + " |",
             "|---" * (1 + 2 * len(labels)) + "|"]
    for name in names:
        cells = [found["labels"][label][which].get(name) for label in labels for which in ("trained", "untrained")]
        lines.append(f"| {name} | " + " | ".join("-" if one is None else f"{one[0]:.2f} ({one[1]:.2f}-{one[2]:.2f})" for one in cells) + " |")
    lines += ["", "Questions / 题数: " + ", ".join(f"{found['labels'][label]['questions']}" for label in labels) + ". 95 % intervals, drawn over texts / 95 % 区间（按文本重抽样）."]
    if found.get("model_is_right"):
        lines += ["The model itself prefers the right word / 模型自己选对的比例: " + ", ".join(
            f"{COLUMNS[label].split(', ')[1].split(' / ')[0]} {share:.2f}" for label, share in found["model_is_right"].items()) + "."]
    return lines


def board(result):
    """The scoreboard as Markdown."""
    lines = ["# Scoreboard of explanation methods / 解释方法记分牌", "", "Made by `python course.py bench explain`; do not edit by hand. / 由该命令生成，请勿手改。"]
    if result.get("runs"):
        lines += ["", *twins_table(result["runs"], result["about"]["texts"])]
    for part in PARTS[1:]:
        if result.get(part):
            lines += ["", *truth_table(part, result[part])]
    return "\n".join(lines) + "\n"


def main(words=None):
    """Measure, print the scoreboard and write it as Markdown and JSON."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=100, help="new texts for each seed")
    parser.add_argument("--scenes", type=int, default=150, help="scenes for each language and place")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of sentences for each direction")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the two files (default: docs)")
    options = parser.parse_args(words)
    torch.set_num_threads(1)  # with more threads sums run in another order, and numbers differ a little
    file = options.out / "explain-scoreboard.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    result["about"] = result.get("about", {}) | {"torch": torch.__version__, "transformers": transformers.__version__}

    def keep(**changes):
        result.update(changes)
        (options.out / "explain-scoreboard.md").write_text(board(result), encoding="utf-8")
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    if "twins" in options.only:
        result["about"]["texts"] = options.texts
        for runs in measure(options.seeds, options.texts):
            keep(runs=runs)
    if "coreference" in options.only:
        keep(coreference=measure_coreference(options.scenes))
    if "alignment" in options.only:
        keep(alignment=measure_alignment(options.pairs))
    print(board(result))


if __name__ == "__main__":
    main()
