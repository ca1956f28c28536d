"""The named heads of a causal story model: which ones they are, what they are held against, and what removing them costs."""
from types import SimpleNamespace

from .. import storyworld
from ..storyworld import words

KINDS = {"previous": "the token before / 前一个词元", "first": "the first token (sink) / 第一个词元（汇点）", "duplicate": "the same token earlier / 更早的相同词元",
         "induction": "what followed it earlier / 它上次之后的词元", "pronoun": "from a pronoun to its name / 从代词到名字",
         "binding": "from a question to the value told / 从提问到说过的答案"}
"""Every kind of `explain.find_heads`, in words."""


def items(lang, count=60):
    """What the pronoun and binding heads are looked for in: facts of several people who meet, of seeds that nothing else uses.

    Args:
        lang: "en" or "zh".
        count: Items of each kind.

    Returns:
        Dict of lists of `explain.Item`.
    """
    from .. import explain
    told = [storyworld.facts(-seed, lang) for seed in range(6001, 6001 + 4 * count)]
    return {"pronoun": [item for one in told for item in explain.pronoun_items(one.text, one.mentions)][:count],
            "binding": [item for one in told for item in explain.binding_items(one.text, one.answers, one.mentions)[:1]][:count]}


def named_heads(model, tokenizer, top=2, count=60):
    """Find the best heads of every kind: chosen on one half of the texts, scored on the other, beside control and cost.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        top: Heads of each kind and language.
        count: Texts of each kind and language.

    Returns:
        List of dicts: `lang` ("both" where the texts are random tokens) and the fields of `explain.HeadRow`.
    """
    from .. import explain
    lm = SimpleNamespace(model=model, tokenizer=tokenizer, info=None)
    found = [("both", row) for kind in ("previous", "first", "duplicate", "induction")
             for row in explain.find_heads(lm, kind, top=top, vocabulary=range(257, len(tokenizer)))]
    for lang in words.LANGUAGES:
        found += [(lang, row) for kind, chosen in items(lang, count).items() for row in explain.find_heads(lm, kind, chosen, top=top)]
    return [{"lang": lang, **vars(row)} for lang, row in found]


def table(rows):
    """The rows of `named_heads` as a Markdown table in both languages."""
    lines = ["| kind / 类别 | language / 语言 | head / 头 | score / 得分 | control / 对照 | loss when removed / 去掉后损失增加 | another removed / 去掉别的头 |", "|---" * 7 + "|"]
    lines += [f"| {KINDS[row['kind']]} | {row['lang']} | L{row['layer']} H{row['head']} | {row['score']:.2f} | {row['control']:.2f} ({row['control_kind']}) | "
              f"{row['effect']:+.2f} | {row['random_effect']:+.2f} |" for row in rows]
    return "\n".join(lines)


def best(rows):
    """For each kind its heads as [layer, head, score], best first: the names that the explorer shows.

    A pronoun or binding head must be right more often than chance in every language in which it is listed; a looking head
    must beat its control.
    """
    named = {}
    for row in sorted(rows, key=lambda row: -row["score"]):
        floor = 0.75 if row["kind"] in ("pronoun", "binding") else row["control"] + 0.2
        if row["score"] >= floor and [row["layer"], row["head"]] not in [head[:2] for head in named.get(row["kind"], [])]:
            named.setdefault(row["kind"], []).append([row["layer"], row["head"], row["score"]])
    return named
