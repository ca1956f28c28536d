"""The sentences of the other text kinds: English and Chinese patterns, in groups that know what they mean and where they may stand.

A pattern holds slots, `{A}` or `{A:form}` (see `kindwords.Entity.forms`), time words in angle brackets, `<today>`, and square brackets
around the clause that causes a feeling. Chinese patterns are written with spaces between words, which gives the lexicon; the spaces
do not appear in texts. A pattern under `held` is used only when new templates are asked for.
"""
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .kindwords import LANGUAGES, Entity

KINDS = ("diary", "letter", "dialogue", "review", "news", "request", "question")


class Piece(NamedTuple):
    """One part of a pattern: literal `text` (a time word if `time` is given), or a `slot` with its `form`, or a `mark` "[" or "]"."""
    text: str = ""
    slot: str = ""
    form: str = ""
    mark: str = ""
    time: Entity | None = None


@dataclass(frozen=True, eq=False)
class Template:
    """One pattern of a group, cut into pieces for each language; it `breaks` the line before it, or `ends_line` after it."""
    id: str
    group: "Group"
    pieces: dict
    breaks: bool
    ends_line: bool


@dataclass(eq=False)
class Group:
    """Patterns that say the same.

    Attributes:
        id, kind: Its name and its text kind.
        role: What it does in a text; `ORDER[kind]` says which roles may follow which.
        seen, held: Its templates, and those held out.
        mood: "good" or "bad" where it is a cause or a feeling; the mood word in it, or in the next sentence, must agree.
        intent, topic: For classification.
        theme: Only one sentence of a theme may stand in a text (one cannot win and lose the same race).
        fits: For a slot the categories that it may have here, for instance {"O": {"device"}}.
        after: Groups of which one must have come before, if any.
    """
    id: str
    kind: str
    role: str
    seen: list = field(default_factory=list)
    held: list = field(default_factory=list)
    mood: str | None = None
    intent: str | None = None
    topic: str | None = None
    theme: str | None = None
    fits: dict = field(default_factory=dict)
    after: tuple = ()


GROUPS = {}
LEXICON = set()
TIMES = {}                                   # time words written in patterns: (en, zh) -> entity
_TOKEN = re.compile(r"\{(\w+)(?::(\^?\w*))?\}|<([^>]+)>|([\[\]])")


def _pieces(pattern, lang, time):
    """Cut one pattern; `time` is the entity of a time word in it."""
    if lang == "zh":
        LEXICON.update(word for part in re.split(r"\{[^}]*\}|[^\u4e00-\u9fff ]", pattern) for word in part.split())
        pattern = pattern.replace(" ", "")
    pattern = re.sub(r"\{L:in\}", "{L:prep}{L}{L:post}", pattern)      # the preposition is no part of the place
    pieces, end = [], 0
    for match in _TOKEN.finditer(pattern):
        if pattern[end:match.start()]:
            pieces.append(Piece(pattern[end:match.start()]))
        slot, form, when, mark = match.groups()
        if slot and not match.start() and not (form or "").startswith("^"):
            form = "^" + (form or "")
        pieces.append(Piece(slot=slot, form=form or "") if slot else Piece(when, time=time) if when else Piece(mark=mark))
        end = match.end()
    if pattern[end:]:
        pieces.append(Piece(pattern[end:]))
    return tuple(pieces)


def group(id, kind, role, seen, held=(), **known):
    """Make a group of (English, Chinese) patterns."""
    made = GROUPS[id] = Group(id, kind, role, **known)
    for name, versions in (("seen", seen), ("held", held)):
        for number, (en, zh) in enumerate(versions):
            when = tuple(re.sub(r"[<>]", "", "".join(re.findall(r"<[^>]+>", text))) for text in (en, zh))
            time = TIMES.setdefault(when, Entity(when[0].lower(), when[1].replace(" ", ""), "time")) if when[0] else None
            getattr(made, name).append(Template(f"{id}.{'held' if name == 'held' else ''}{number}", made,
                                                {lang: _pieces(text, lang, time) for lang, text in zip(LANGUAGES, (en, zh))},
                                                en.startswith("\n"), en.endswith("\n")))


def capital(clause):
    """An English clause as the beginning of a sentence."""
    if clause[0] == "{":
        return re.sub(r"^\{(\w)(?::(\w+))?\}", lambda m: "{%s:^%s}" % (m[1], m[2] or ""), clause)
    return clause[0].upper() + clause[1:]


def feelings(id, kind, clause, who=None, **known):
    """A cause with its feeling in one sentence (role "e"), and the cause alone (role "k", of B "kb"), which the feeling must follow.

    `clause` is (en, zh); with `who`, a slot, the feeling is that person's and `clause` has {p}, {his} for the person.
    """
    en, zh = clause
    name = {"p": "{%s}" % who, "his": "{%s:his}" % who, "him": "{%s}" % who}
    he = {"p": "{%s:he}" % who, "his": "{%s:his}" % who, "him": "{%s:him}" % who}

    def put(text, table):
        return re.sub(r"\{(p|his|him)\}", lambda m: table[m[1]], text)
    by_name, by_he = [(put(en, table), put(zh, table)) for table in (name, he)]
    subject, pronoun = (("{%s}" % who,) * 2, ("{%s:he}" % who,) * 2) if who else (("I", "我"), ("I", "我"))
    him = ("{%s:him}" % who,) * 2 if who else ("me", "我")
    group(id, kind, "e",
          [(f"[{capital(by_name[0])}], so {pronoun[0]} was {{M}}.", f"[{by_name[1]}] ，所以 {pronoun[1]} 很 {{M}}。"),
           (f"{subject[0]} was {{M}} because [{by_he[0]}].", f"{subject[1]} 很 {{M}}，因为 [{by_he[1]}] 。")],
          [(f"[{capital(by_name[0])}], and that made {him[0]} {{M}}.", f"[{by_name[1]}] ，这 让 {him[1]} 很 {{M}}。")], **known)
    group(id + "_alone", kind, "kb" if who == "B" else "k", [(f"[{capital(by_name[0])}].", f"[{by_name[1]}] 。")], **known)


# -- diary -------------------------------------------------------------------------------------------------------------

group("diary_date", "diary", "date", [("<Today> is {T}.", "<今天> 是 {T}。")], [("Dear Diary, <today> is {T}.", "亲爱 的 日记，<今天> 是 {T}。")])
group("diary_sun", "diary", "weather", [("It was sunny and warm.", "阳光 很 好，天气 很 暖和。"), ("The weather was nice.", "天气 很 好。")],
      theme="sky", fits={"L": {"outdoors"}})
group("diary_rain", "diary", "weather", [("It rained all day.", "下 了 一 整 天 雨。"), ("The weather was bad.", "天气 不 好。")],
      theme="sky", fits={"L": {"indoors"}})
group("diary_go", "diary", "go", [("I went to {L} with {B}.", "我 和 {B} 一起 去 了 {L}。"),
      ("<In the morning>, {B} and I went to {L}.", "<早上>，{B} 和 我 去 了 {L}。")],
      [("{B} took me to {L}.", "{B} 带 我 去 了 {L}。")])
for id, topic, theme, mood, clause in (
        ("won", "games", "game", "good", ("I won the game", "我 赢 了 比赛")),
        ("lost_game", "games", "game", "bad", ("I lost the game", "我 输 了 比赛")),
        ("sang", "games", "play", "good", ("{B} played with me", "{B} 和 我 一起 玩")),
        ("no_play", "games", "play", "bad", ("{B} did not want to play with me", "{B} 不 想 和 我 玩")),
        ("early", "travel", "bus", "good", ("the bus came at once", "公共汽车 马上 就 来 了")),
        ("missed", "travel", "bus", "bad", ("we missed the bus", "我们 没 赶上 公共汽车")),
        ("lost", "travel", "own", "bad", ("I lost {X:my} on the way", "我 在 路上 弄丢 了 {X:my}")),
        ("seat", "travel", "bus", "good", ("we got good seats on the bus", "我们 在 车上 坐 到 了 好 座位")),
        ("sweet", "food", "lunch", "good", ("{B} gave me some {F}", "{B} 给 了 我 一些 {F}")),
        ("eaten", "food", "lunch", "bad", ("{B} ate all my {F}", "{B} 吃 光 了 我 的 {F}")),
        ("meal", "food", "meal", "good", ("the soup at lunch was very good", "午饭 的 汤 很 好喝")),
        ("cold", "food", "meal", "bad", ("the soup at lunch was cold", "午饭 的 汤 是 凉 的")),
        ("gift", "presents", "gift", "good", ("{B} gave me {Y:a}", "{B} 送 了 我 {Y:a}")),
        ("no_gift", "presents", "gift", "bad", ("{B} forgot my birthday", "{B} 忘 了 我 的 生日")),
        ("broke", "presents", "own", "bad", ("I broke {X:my}", "我 弄坏 了 {X:my}")),
        ("mail", "presents", "mail", "good", ("I got a letter from my grandmother", "我 收到 了 奶奶 的 来信"))):
    feelings("diary_" + id, "diary", clause, topic=topic, theme=theme, mood=mood, fits={"X": {"hard"}} if id == "broke" else {})
for id, topic, theme, mood, clause in (
        ("b_gave", "food", "lunch", "good", ("I gave {him} some {F}", "我 给 了 {him} 一些 {F}")),
        ("b_won", "games", "game", "good", ("{p} won the game", "{p} 赢 了 比赛")),
        ("b_hurt", "games", "b", "bad", ("{p} hurt {his} leg", "{p} 的 腿 受伤 了")),
        ("b_lost", "travel", "b", "bad", ("{p} could not find {his} key", "{p} 找 不 到 自己 的 钥匙"))):
    feelings("diary_" + id, "diary", clause, who="B", topic=topic, theme=theme, mood=mood)
group("diary_found", "diary", "e", [("Later, [{B} found {X:my}], so I was {M}.", "后来，[{B} 找到 了 {X:my}] ，所以 我 很 {M}。")],
      mood="good", after=("diary_lost", "diary_lost_alone"))
for mood in ("good", "bad"):
    group("diary_feel_" + mood, "diary", "f", [("I was {M}.", "我 很 {M}。")], [("That made me {M}.", "这 让 我 很 {M}。")], mood=mood)
    group("diary_feel_b_" + mood, "diary", "fb", [("{B:he} was {M}.", "{B:he} 很 {M}。")], mood=mood)
group("diary_end", "diary", "end", [("<In the evening> we went home.", "<晚上>，我们 回 家 了。"), ("We went home together.", "我们 一起 回 家 了。"),
                                    ("I went to bed early.", "我 很 早 就 睡觉 了。")], [("I wrote this <at night>.", "<夜里>，我 写下 了 这些。")])

# -- letter ------------------------------------------------------------------------------------------------------------

group("letter_dear", "letter", "dear", [("Dear {B},\n", "亲爱 的 {B}：\n")])
group("letter_from", "letter", "from", [("My name is {A}, and I go to {G}.", "我 叫 {A}，我 在 {G} 上学。"),
      ("This is {A} from {G}.", "我 是 {G} 的 {A}。")], fits={"G": {"school"}})
group("letter_thanks", "letter", "thanks", [("Thank you for {X} that you sent me on {T}.", "谢谢 你 {T} 寄给 我 的 {X}。"),
      ("Thank you very much for {X}.", "非常 感谢 你 送 我 的 {X}。")],
      [("{X:^} came on {T}. Thank you!", "{X} {T} 到 了。谢谢 你！")], topic="presents", intent="thanks")
group("letter_like", "letter", "like", [("I like it very much.", "我 非常 喜欢。")])
group("letter_news", "letter", "news", [("<Yesterday> I went to {L} with {C}.", "<昨天> 我 和 {C} 去 了 {L}。"),
      ("<Last week> {C} and I went to {L}.", "<上个星期> {C} 和 我 去 了 {L}。")],
      [("{C} took me to {L} <last month>.", "<上个月> {C} 带 我 去 了 {L}。")])
for id, topic, theme, mood, clause in (
        ("won", "games", "game", "good", ("{p} won a game there", "{p} 在 那里 赢 了 一 场 比赛")),
        ("lost_game", "games", "game", "bad", ("{p} lost a game there", "{p} 在 那里 输 了 一 场 比赛")),
        ("friend", "travel", "friend", "good", ("{p} made a new friend there", "{p} 在 那里 交 了 一 个 新 朋友")),
        ("found", "travel", "own", "good", ("{p} found {Y:a} there", "{p} 在 那里 捡到 了 {Y:a}")),
        ("lost", "travel", "own", "bad", ("{p} lost {his} {Y:bare} there", "{p} 在 那里 弄丢 了 自己 的 {Y:bare}")),
        ("missed", "travel", "bus", "bad", ("{p} missed the bus", "{p} 没 赶上 公共汽车")),
        ("ate", "food", "lunch", "good", ("{p} ate some {F}", "{p} 吃 了 一些 {F}")),
        ("hungry", "food", "lunch", "bad", ("{p} had nothing to eat", "{p} 没 有 东西 吃"))):
    feelings("letter_" + id, "letter", clause, who="C", topic=topic, theme=theme, mood=mood)
for mood in ("good", "bad"):
    group("letter_feel_" + mood, "letter", "f", [("{C:he} was {M}.", "{C:he} 很 {M}。")],
          [("That made {C:him} {M}.", "这 让 {C:him} 很 {M}。")], mood=mood)
group("letter_invite", "letter", "invite", [("Can you come to my home on {U}?", "你 {U} 能 来 我 家 吗？"),
      ("Please come to see me on {U}.", "请 你 {U} 来 看 我。")], intent="invite")
group("letter_bye", "letter", "bye", [("Please write to me soon.", "请 早点 给 我 回信。"), ("I hope that you are well.", "祝 你 身体 健康。")],
      [("I miss you.", "我 很 想 你。")])
group("letter_sign", "letter", "sign", [("\nYour friend,\n{A}", "\n你 的 朋友\n{A}")])

# -- dialogue: every line as a play has it and as a story has it ------------------------------------------------------------

STYLES = ("play", "story")


def line(id, speaker, seen, held=(), **known):
    """A spoken line, in both styles; `seen` and `held` are what is said."""
    for style in STYLES:
        group(f"{id}_{style}", "dialogue", id, [_say(speaker, *said, style) for said in seen], [_say(speaker, *said, style) for said in held],
              theme="line_" + id, **known)


def _say(speaker, en, zh, style):
    if style == "play":
        return f"\n{{{speaker}}}: {en}", f"\n{{{speaker}}}：{zh}"
    asks = en.endswith("?")
    en = en if asks else en[:-1] + ","
    return f"\n“{en}” {'asked' if asks else 'said'} {{{speaker}}}.", f"\n{{{speaker}}} {'问' if asks else '说'}：“{zh}”"


group("shop_scene", "dialogue", "shop", [("{A} went to {G} on {T}. {B} worked there.", "{T}，{A} 去 了 {G}。{B} 在 那里 工作。")],
      [("On {T}, {A} came into {G}, where {B} worked.", "{T}，{A} 来 到 了 {B} 工作 的 {G}。")],
            topic="shopping", fits={"G": {"device", "clothes", "toy"}})
line("buy_ask", "A", [("Hello, do you have {O:a}?", "你 好，你们 有 {O:bare} 吗？")],
      [("I am looking for {O:a}. Do you have one?", "我 在 找 {O:a}，你们 有 吗？")], intent="buy")
line("buy_colour", "B", [("Yes, we do. What colour do you want?", "有。你 想要 什么 颜色 的？")])
line("buy_price", "A", [("{V:^a} one, please. How much is it?", "我 想要 {V} 的，多少 钱？")])
line("buy_cheap", "B", [("It is {P} yuan.", "{P} 元。")], [("It costs {P} yuan.", "要 {P} 元。")], fits={"P": {"cheap"}})
line("buy_dear", "B", [("It is {P} yuan.", "{P} 元。")], [("It costs {P} yuan.", "要 {P} 元。")], fits={"P": {"dear"}})
line("buy_yes", "A", [("That is cheap. I will take it.", "很 便宜，我 买 了。")])
line("buy_no", "A", [("That is too expensive. I do not want it.", "太 贵 了，我 不 买 了。")])
line("buy_bye", "B", [("Thank you. Please come again.", "谢谢，欢迎 再 来。")])
line("buy_sorry", "B", [("I am sorry. Please come again.", "不好意思，欢迎 再 来。")])
group("gift_scene", "dialogue", "gift", [("{A} met {B} in the street on {T}.", "{T}，{A} 在 街上 遇见 了 {B}。")],
      [("On {T}, {A} and {B} met in the street.", "{T}，{A} 和 {B} 在 街上 见面 了。")])
line("gift_offer", "A", [("Hello, {B}. I have {X:a}. Do you want it?", "{B}，你 好。我 有 {X:a}，你 想要 吗？")],
      [("I do not need {X:my}, {B}. Do you want it?", "{B}，我 不 需要 {X:my} 了，你 想要 吗？")], topic="presents", intent="give")
line("gift_yes", "B", [("Yes, please. I like it very much.", "想要，我 非常 喜欢。")])
line("gift_give", "A", [("Here you are.", "给 你。")])
line("gift_thanks", "B", [("Thank you, {A}.", "谢谢 你，{A}。")])
line("gift_welcome", "A", [("You are welcome.", "不 客气。")])
line("gift_no", "B", [("No, thank you. I have one at home.", "不用 了，谢谢。我 家里 有。")])
line("gift_fine", "A", [("All right.", "好 吧。")])
line("meet_ask", "A", [("Hello, {B}. Where are you going?", "{B}，你 好。你 要 去 哪里？")], topic="travel", intent="meet")
line("meet_go", "B", [("I am going to {L} with {C}.", "我 和 {C} 一起 去 {L}。")])
line("meet_may", "A", [("Can I come with you?", "我 能 和 你们 一起 去 吗？")])
line("meet_yes", "B", [("Yes, of course.", "当然 可以。")])
line("meet_no", "B", [("I am sorry. There is no room in {C:his} car.", "对不起，{C:his} 车里 坐 不 下 了。")])
group("buy_end_yes", "dialogue", "buy_end_yes", [("\n{A} took {O} home.", "\n{A} 把 {O} 带 回 了 家。")])
group("buy_end_no", "dialogue", "buy_end_no", [("\n{A} went home without {O:a}.", "\n{A} 没 买 {O:bare} 就 回 家 了。")])
group("gift_end_yes", "dialogue", "gift_end_yes", [("\n[{A} gave {B} {X}], so {B:he} was {M}.",
      "\n[{A} 把 {X} 给 了 {B}] ，所以 {B:he} 很 {M}。")], mood="good")
group("gift_end_no", "dialogue", "gift_end_no", [("\n{A} kept {X}.", "\n{A} 自己 留下 了 {X}。")])
group("meet_end_yes", "dialogue", "meet_end_yes", [("\n{A} was {M} because [{A:he} could go with them].",
      "\n{A} 很 {M}，因为 [{A:he} 可以 一起 去] 。")], mood="good")
group("meet_end_no", "dialogue", "meet_end_no", [("\n{A} was {M} because [{A:he} could not go with them].",
      "\n{A} 很 {M}，因为 [{A:he} 不 能 一起 去] 。")], mood="bad")

# -- review ------------------------------------------------------------------------------------------------------------

SHOPS, GOODS = {"device", "clothes", "toy", "book"}, {"device", "clothes", "toy", "book"}
group("review_bought", "review", "open", [("I bought {O:a} from {G} on {T}.", "我 {T} 在 {G} 买 了 {O:a}。"),
      ("On {T} I bought {O:a} from {G}.", "{T}，我 在 {G} 买 了 {O:a}。")],
      [("{G} sold me {O:a} on {T}.", "{G} {T} 卖给 了 我 {O:a}。")], topic="shopping", theme="bought", fits={"G": SHOPS, "O": GOODS})
group("review_ate", "review", "open", [("I had lunch at {G} with {B} on {T}.", "{T}，我 和 {B} 在 {G} 吃 了 午饭。")],
      [("{B} and I ate at {G} on {T}.", "{B} 和 我 {T} 在 {G} 吃 了 饭。")], topic="food", theme="ate", fits={"G": {"bakery", "restaurant"}})
group("review_film", "review", "open", [("I saw a film at {G} with {B} on {T}.", "{T}，我 和 {B} 在 {G} 看 了 一 部 电影。")],
      [("{B} and I saw a film at {G} on {T}.", "{B} 和 我 {T} 在 {G} 看 了 一 部 电影。")], topic="films", theme="film", fits={"G": {"cinema"}})
group("review_trip", "review", "open", [("I went to {L} with {B} on {T}.", "{T}，我 和 {B} 去 了 {L}。")],
      [("{B} and I were {L:in} on {T}.", "{B} 和 我 {T} 去 了 {L}。")], topic="travel", theme="trip")
CLAIMS = {}
"""For each opening and category the (good, bad) pairs of groups that can be claimed of it."""
for id, opening, category, good, bad in (
        ("works", "bought", "device", ("it still works well after two months", "用 了 两 个 月 还 很 好用"),
              ("it broke after two days", "用 了 两 天 就 坏 了")),
        ("power", "bought", "device", ("it does not use much power", "它 不 费电"), ("it uses too much power", "它 太 费电 了")),
        ("size", "bought", "clothes", ("it fits me very well", "我 穿 着 很 合身"), ("it is too small for me", "我 穿 着 太 小 了")),
        ("wash", "bought", "clothes", ("its colour did not change in the wash", "洗 了 以后 没 有 掉色"),
              ("its colour was gone after one wash", "洗 了 一 次 就 掉色 了")),
        ("parts", "bought", "toy", ("no part has come off", "一 个 零件 也 没 掉"), ("one part came off after two days", "玩 了 两 天 就 掉 了 一 个 零件")),
        ("brother", "bought", "toy", ("my brother plays with it all the time", "我 弟弟 总是 玩 它"),
              ("my brother never plays with it", "我 弟弟 从来 不 玩 它")),
        ("pages", "bought", "book", ("no page is missing", "一 页 也 不 少"), ("two pages are missing", "少 了 两 页")),
        ("print", "bought", "book", ("the print is clear", "字 印 得 很 清楚"), ("the print is not clear", "字 印 得 不 清楚")),
        ("came", "bought", "", ("it came one day early", "货 早 到 了 一 天"), ("it came two weeks late", "货 晚 到 了 两 个 星期")),
        ("late", "bought", "", ("it was not late", "货 没 有 晚 到"), ("it did not come in time", "货 没 有 按时 到")),
        ("price", "bought", "", ("it is cheaper than in other shops", "比 别家 便宜"), ("it is cheaper in other shops", "别家 更 便宜")),
        ("answer", "bought", "", ("they answered all my questions", "店员 回答 了 我 所有 的 问题"),
              ("they did not answer my questions", "店员 不 回答 我 的 问题")),
        ("taste", "ate", "", ("the food was fresh", "东西 很 新鲜"), ("the food was not fresh", "东西 不 新鲜")),
        ("warm", "ate", "", ("the soup was hot", "汤 很 热"), ("the soup was cold", "汤 是 凉 的")),
        ("wait", "ate", "", ("we did not wait long", "我们 没 等 多 久"), ("we waited for two hours", "我们 等 了 两 个 小时")),
        ("waiter", "ate", "", ("the waiter was quick and polite", "服务员 又 快 又 有 礼貌"), ("the waiter was slow and rude", "服务员 又 慢 又 没 礼貌")),
        ("cost", "ate", "", ("lunch was not expensive", "午饭 不 贵"), ("lunch was too expensive", "午饭 太 贵 了")),
        ("seats", "film", "", ("the seats were soft and clean", "座位 又 软 又 干净"), ("the seats were hard and dirty", "座位 又 硬 又 脏")),
        ("hear", "film", "", ("we could hear every word", "每 句 话 都 听 得 清楚"), ("we could not hear the words", "我们 听 不 清楚")),
        ("left", "film", "", ("nobody left before the end", "没 有 人 提前 离开"), ("many people left before the end", "很 多 人 提前 离开 了")),
        ("clean", "trip", "", ("it was clean and quiet there", "那里 又 干净 又 安静"), ("it was dirty and noisy there", "那里 又 脏 又 吵")),
        ("crowd", "trip", "", ("there were not too many people", "人 不 太 多"), ("there were too many people", "人 太 多 了")),
        ("bus", "trip", "", ("the bus was not late", "公共汽车 没 有 晚 到"), ("the bus was two hours late", "公共汽车 晚 到 了 两 个 小时"))):
    for mood, (en, zh) in (("good", good), ("bad", bad)):
        known = {"mood": mood, "theme": "came" if id == "late" else id, "fits": {"O": {category}} if category else {},
              "after": (f"review_{opening}",)}
        group(f"claim_{id}_{mood}", "review", "claim", [(f"[{capital(en)}].", f"[{zh}] 。")], **known)
        group(f"claim_{id}_{mood}_first", "review", "first", [(f"{capital(en)}, but", f"{zh}，但是")], **known)
        group(f"claim_{id}_{mood}_last", "review", "last", [(f"[{en}].", f"[{zh}] 。")], **known)
    for key in sorted(GOODS) if opening == "bought" and not category else [category or opening]:
        CLAIMS.setdefault(key, []).append((f"claim_{id}_good", f"claim_{id}_bad"))
for mood in ("good", "bad"):
    group("verdict_" + mood, "review", "verdict", [("I am {W}.", "我 很 {W}。"), ("So I am very {W}.", "所以 我 非常 {W}。")],
          [("That makes me {W}.", "这 让 我 很 {W}。")], mood=mood)

# -- news --------------------------------------------------------------------------------------------------------------

group("news_lead", "news", "lead", [("{G} held {E:a} {L:in} on {T}.", "{T}，{G} 在 {L:in} 举办 了 {E:a}。"),
      ("On {T}, {G} held {E:a} {L:in}.", "{G} {T} 在 {L:in} 举办 了 {E:a}。")],
      [("There was {E:a} {L:in} on {T}, held by {G}.", "{T}，{L:in} 有 {E:a}，是 {G} 举办 的。")], theme="lead", fits={"L": {"outdoors"}})
group("news_crowd", "news", "crowd", [("More than {N} people came.", "有 {N} 多 人 参加。")], [("There were {N} people.", "一共 来 了 {N} 人。")])
group("news_first", "news", "first", [("{A} won first prize.", "{A} 得 了 第一 名。"), ("First prize went to {A}.", "第一 名 是 {A}。")],
      [("The winner was {A}.", "获胜 的 是 {A}。")], after=("news_lead",))
group("news_second", "news", "second", [("{B} came second.", "{B} 得 了 第二 名。")])
group("news_quote", "news", "quote", [("“I am very {M} because [I won],” {A:he} said.", "{A:he} 说：“我 非常 {M}，因为 [我 赢 了] 。”"),
      ("{A:he} was {M} because [{A:he} won].", "{A:he} 很 {M}，因为 [{A:he} 赢 了] 。")], mood="good")
group("news_sad", "news", "sad", [("{B} was {M} because [{B:he} did not win].", "{B} 很 {M}，因为 [{B:he} 没 有 赢] 。")], mood="bad")
group("news_next", "news", "next", [("There will be another one <next year>.", "<明年> 还 会 再 举办 一 次。")],
      [("The next one is <next month>.", "下 一 次 在 <下个月>。")])
group("news_open", "news", "start", [("{A}, a teacher at {G}, took some children to {L} on {T}.", "{T}，{G} 的 老师 {A} 带 孩子们 去 了 {L}。")],
      [("On {T}, children from {G} went to {L} with their teacher {A}.", "{T}，{G} 的 孩子们 和 老师 {A} 去 了 {L}。")],
            topic="school", theme="lead", fits={"G": {"school"}, "L": {"outdoors"}})
group("news_lost", "news", "lost", [("{B} lost {X:a} there.", "{B} 在 那里 弄丢 了 {X:a}。")])
group("news_found", "news", "found", [("{C} found it and gave it back to {B:him}.", "{C} 捡到 了 它，还给 了 {B:him}。")])
group("news_glad", "news", "glad", [("{B} was {M} because [{B:he} got {X} back].", "{B} 很 {M}，因为 [{B:he} 找回 了 {X}] 。")], mood="good")

# -- request: an instruction and its answer ------------------------------------------------------------------------------

group("ask_story", "request", "story", [("Please tell a story about {A} and {X:short}.", "请 讲 一 个 关于 {A} 和 {X:short} 的 故事。")],
      [("Tell me about {A} and {X:short}, please.", "请 给 我 讲讲 {A} 和 {X:short} 的 故事。")], intent="story")
group("story_one", "request", "story1", [("\n{A} had {X:a}.", "\n{A} 有 {X:a}。")])
group("story_two", "request", "story2", [("{A:he} lost it {L:in}.", "{A:he} 在 {L:in} 把 它 弄丢 了。")])
group("story_three", "request", "story3", [("{B} found it and gave it back to {A:him}.", "{B} 捡到 了 它，还给 了 {A:him}。")])
group("story_four", "request", "story4", [("[{A} got {X} back], so {A:he} was {M}.", "[{A} 找回 了 {X}] ，所以 {A:he} 很 {M}。")], mood="good")
group("ask_thanks", "request", "thank", [("Please thank {A} for {X}.", "请 向 {A} 道谢，{A:he} 送 了 你 {X:a}。")],
      [("Please write a thank-you note to {A} for {X}.", "{A} 送 了 你 {X:a}，请 写 一 句 感谢 的 话。")], intent="thanks")
group("do_thanks", "request", "thank1", [("\nDear {A}, thank you for {X}. I like it very much.", "\n亲爱 的 {A}，谢谢 你 送 我 的 {X}。我 非常 喜欢。")])
group("ask_invite", "request", "ask", [("Please ask {A} to come to {L} on {T}.", "请 邀请 {A} {T} 来 {L}。")],
      [("Please invite {A} to come to {L} on {T}.", "请 写 一 句 话，邀请 {A} {T} 来 {L}。")], intent="invite")
group("do_invite", "request", "ask1", [("\nDear {A}, can you come to {L} on {T}?", "\n亲爱 的 {A}，你 {T} 能 来 {L} 吗？")])
group("ask_sorry", "request", "sorry", [("Please say sorry to {A} because you lost {A:his} {X:bare}.",
      "请 向 {A} 道歉，因为 你 弄丢 了 {A:his} {X:bare}。")], intent="apology")
group("do_sorry", "request", "sorry1", [("\nDear {A}, I am sorry that I lost {X:your}.", "\n亲爱 的 {A}，对不起，我 弄丢 了 {X:your}。")])
group("ask_list", "request", "list", [("{A} has {X:a} and {Y:a}. {B} has some {F}. What does {A} have?",
      "{A} 有 {X:a} 和 {Y:a}。{B} 有 一些 {F}。{A} 有 什么？")], intent="read")
group("do_list", "request", "list1", [("\n{A} has {X:a} and {Y:a}.", "\n{A} 有 {X:a} 和 {Y:a}。")])
group("ask_where", "request", "where", [("{A} was {L:in} on {T}. {B} was at home. Where was {A}?",
      "{T}，{A} 在 {L:in}，{B} 在 家里。{A} 在 哪里？")], intent="read")
group("do_where", "request", "where1", [("\n{A} was {L:in}.", "\n{A} 在 {L:in}。")])

# -- question: a customer and a shop ------------------------------------------------------------------------------------

FAQ = {
    "delivery": ("We send every order within two days.", "所有 的 货 两 天 内 寄出。"),
    "return": ("You can send it back within ten days.", "十 天 内 可以 退货。"),
    "broken": ("We are sorry. We will send you a new one.", "很 抱歉，我们 会 给 您 换 一 个 新 的。"),
    "refund": ("You will get your money back within a week.", "钱 会 在 一 个 星期 内 退 给 您。"),
    "price": ("The price of everything is on our list.", "价钱 都 在 价目表 上。"),
    "hours": ("We are open from nine to six.", "我们 九点 开门，六点 关门。"),
    "pay": ("You can pay by card or by phone.", "可以 刷卡，也 可以 用 手机 付钱。"),
    "wrong": ("We are sorry. Please send it back, and we will send you the right one.", "很 抱歉，请 寄 回来，我们 给 您 寄 对 的。"),
    "thanks": ("Thank you. Please come again.", "谢谢 您，欢迎 再 来。"),
    "unknown": ("I am sorry, I cannot help you with that.", "很 抱歉，这个 问题 我 回答 不 了。"),
}
"""For each intent the reply of the shop; "unknown" is the polite answer where no entry fits."""
QUESTIONS = {
    "delivery": ([("When will it come?", "什么 时候 能 到？"), ("It is not here yet. Where is it?", "还 没 到，现在 在 哪里？"),
          ("How long must I wait for it?", "我 还 要 等 多 久？")],
                 [("Have you sent it?", "你们 寄出 了 吗？")]),
    "return": ([("I do not need it now. Can I send it back?", "我 现在 不 需要 了，可以 退货 吗？"),
          ("My mother bought one, too. Can I return it?", "我 妈妈 也 买 了，能 退货 吗？")],
               [("May I give it back to you?", "可以 退 给 你们 吗？")]),
    "broken": ([("It is damaged. What can you do?", "它 坏 了，怎么 办？"), ("It was damaged when it came.", "到 的 时候 就 坏 了。")],
          [("I opened the box and it was damaged.", "打开 盒子 一 看，已经 坏 了。")]),
    "refund": ([("I sent it back. When will I get my money?", "我 已经 退货 了，钱 什么 时候 退？"),
          ("You have it back now. Where is my money?", "你们 已经 收到 退货 了，我 的 钱 在 哪里？")],
               [("I sent it back, but I have no money from you yet.", "我 退货 了，可是 还 没 收到 钱。")]),
    "wrong": ([("You sent me the wrong colour.", "颜色 寄 错 了。"),
          ("I wanted {O:a}, but you sent me something else.", "我 要 的 是 {O:bare}，可是 你们 寄 错 了 东西。")],
              [("What came is not what I ordered.", "寄 来 的 不 是 我 买 的 东西。")]),
    "thanks": ([("It is very good. Thank you!", "很 好，谢谢！"), ("I like it very much. Thank you for your help!", "我 非常 喜欢，谢谢 你们！")],
          [("Your shop is very good, thank you!", "你们 的 店 很 好，谢谢！")]),
    "price": ([("How much is {O:a}?", "{O:a} 多少 钱？"), ("What does {O:a} cost at {G}?", "{G} 的 {O:bare} 多少 钱？")],
          [("Is {O:a} expensive?", "{O:bare} 贵 吗？")]),
    "hours": ([("When does {G} open?", "{G} 几点 开门？"), ("Is {G} open on {T}?", "{G} {T} 开门 吗？")], [("When does {G} close?", "{G} 几点 关门？")]),
    "pay": ([("How can I pay for {O:a}?", "买 {O:bare} 怎么 付钱？"), ("Can I pay by card at {G}?", "在 {G} 可以 刷卡 吗？")],
          [("I have no cash with me. Is that all right?", "我 没 带 现金，可以 吗？")]),
    "unknown": ([("Who is {A}?", "{A} 是 谁？"), ("How do I get to {L}?", "去 {L} 怎么 走？"), ("Will it rain on {T}?", "{T} 会 下雨 吗？"),
          ("Can you sing a song for me?", "你 能 给 我 唱 一 首 歌 吗？")],
                [("What does {A} like to eat?", "{A} 喜欢 吃 什么？")]),
}
ORDERED = ("delivery", "return", "broken", "refund", "wrong", "thanks")
"""Intents about a thing that was ordered; the others come without an order."""
group("customer", "question", "hello", [("Customer: Hello.", "顾客：您 好。")], [("Customer: Hi.", "顾客：你们 好。")])
group("ordered", "question", "order", [("I ordered {O:a} from {G} on {T}.", "我 {T} 在 {G} 买 了 {O:a}。"),
      ("On {T}, I ordered {O:a} from {G}.", "{T}，我 在 {G} 买 了 {O:a}。")],
      [("My order from {G} on {T} was {O:a}.", "我 {T} 在 {G} 订 了 {O:a}。")], topic="shopping", fits={"G": SHOPS, "O": GOODS})
for intent, (seen, held) in QUESTIONS.items():
    group("q_" + intent, "question", "q_ordered" if intent in ORDERED else "q_plain", seen, held, intent=intent,
          fits={"O": GOODS} if intent not in ("unknown",) else {})
    group("reply_" + intent, "question", "reply", [("\nShop: " + FAQ[intent][0], "\n店员：" + FAQ[intent][1])], intent=intent)
FAQ = {intent: {"en": en, "zh": zh.replace(" ", "")} for intent, (en, zh) in FAQ.items()}

# -- which role may follow which; "" is the beginning and the end of a text ---------------------------------------------------


def _chains(*chains):
    """Which role may follow which, from examples; a chain that does not reach the end of a text ends with "..."."""
    following = {}
    for chain in chains:
        roles = ["", *chain.removesuffix(" ...").split()] + ([] if chain.endswith("...") else [""])
        for before, after in zip(roles, roles[1:]):
            following.setdefault(before, set()).add(after)
    return following


ORDER = {
    "diary": _chains("date weather go ...", "date go e e k f k f e kb fb e end", "date go k f kb fb k f end", "date go kb fb kb fb end"),
    "letter": _chains("dear from thanks like news e invite bye sign", "dear from thanks news k f invite bye sign",
          "dear from news e bye sign", "dear from news k f bye sign"),
    "dialogue": _chains("shop buy_ask buy_colour buy_price buy_cheap buy_yes buy_bye buy_end_yes",
          "shop buy_ask buy_colour buy_price buy_dear buy_no buy_sorry buy_end_no",
                        "gift gift_offer gift_yes gift_give gift_thanks gift_welcome gift_end_yes",
                              "gift gift_offer gift_no gift_fine gift_end_no",
                        "gift meet_ask meet_go meet_may meet_yes meet_end_yes", "gift meet_ask meet_go meet_may meet_no meet_end_no"),
    "review": _chains("open claim claim verdict", "open claim", "open claim first last verdict", "open first last"),
    "news": _chains("lead crowd first quote second sad next", "lead first second next", "lead first second", "lead first second sad",
          "lead first quote next",
                    "lead crowd first quote", "lead first next", "lead crowd first", "start lost found glad"),
    "request": _chains("story story1 story2 story3 story4", "thank thank1", "ask ask1", "sorry sorry1", "list list1", "where where1"),
    "question": _chains("hello order q_ordered reply", "hello q_plain reply"),
}
