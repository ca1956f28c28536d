"""The other texts of the story world: diaries, letters, dialogues, reviews, news, requests and customer questions, with their truth.

>>> text(1, kind="review").text == text(1, kind="review").text
True
"""
import random
from dataclasses import dataclass, field

from . import kindcheck, kindgrammar, kindwords
from .kindgrammar import CLAIMS, FAQ, GROUPS, KINDS, LANGUAGES, ORDERED, SHOPS, STYLES
from .kindwords import NEW_ORGANISATIONS, ORGANISATIONS

TOPICS = ("shopping", "travel", "school", "food", "games", "music", "films", "presents")
INTENTS = {"request": ("story", "thanks", "invite", "apology", "read"), "question": tuple(FAQ)}
LABELS = {"en": "\nShop: ", "zh": "\n店员："}


@dataclass(slots=True)
class Text:
    """A text and its truth; all spans are (start, end, ...) in characters of `text`.

    Attributes:
        text, lang, kind, seed: The text, "en" or "zh", one of `KINDS`, and the seed that writes it again.
        sentences: (start, end, template id, slots) for each sentence, or clause before and after "but"; `slots` is (letter, entity) pairs.
        spans: (start, end, type, value) of every person, place, thing, organisation and time (days, and words such as "yesterday"; not
            how long something took); value is a `kindwords.Entity`.
        pronouns: (start, end, person) of every he, him, his, she and her.
        causes: (start, end) of each clause that is the cause of a feeling or of a verdict.
        moods: "good" or "bad" for each cause.
        sentiment: "good" or "bad" where all causes agree, else None. Of a review with "but" only the last clause is a cause.
        explicit: True if the text has a feeling word.
        topic: One of `TOPICS`, or None; intent: one of `INTENTS` and those of letters and dialogues, or None.
        prompt, answer: Of a request or question, the spans of what is asked and of the answer, else None.
        roles: The entity of each slot letter, for instance of a letter {"A": writer, "B": reader, ...}.
    """
    text: str
    lang: str
    kind: str
    seed: int
    sentences: list
    spans: list
    pronouns: list
    causes: list
    moods: list
    sentiment: str | None
    explicit: bool
    topic: str | None
    intent: str | None
    prompt: tuple | None
    answer: tuple | None
    roles: dict

    @property
    def reply(self):
        """The answer's text, for a question that of its entry in `FAQ`."""
        return self.text[slice(*self.answer)] if self.answer else None


@dataclass(slots=True)
class Plan:
    """What a text will say, in no language yet: `moves` are (template, mood word or None), `slots` the entity of each letter."""
    kind: str
    moves: list = field(default_factory=list)
    slots: dict = field(default_factory=dict)
    topic: str | None = None
    intent: str | None = None


class Draw:
    """The choices for one text. Every choice is one random number, so both languages choose alike."""
    __slots__ = ("random", "people", "places", "firms", "held")

    def __init__(self, rng, new_names, held):
        self.random, self.held = rng.random, held
        self.people, self.places, self.firms = (table[new_names] for table in (kindwords.PEOPLE, kindwords.PLACES, _FIRMS))

    def one(self, options):
        return options[int(self.random() * len(options))]

    def two(self, options):
        """Two different entries."""
        first = int(self.random() * len(options))
        second = int(self.random() * (len(options) - 1))
        return options[first], options[second + (second >= first)]

    def three_people(self):
        first, second = self.two(self.people)
        while (third := self.one(self.people)) is first or third is second:
            pass
        return first, second, third

    def place(self, category=None):
        fitting = [place for place in self.places if place.category == category] if category else self.places
        return self.one(fitting or self.places)

    def firm(self, categories):
        """An organisation of one of these types."""
        return self.one([firm for category in categories for firm in self.firms[category]])

    def move(self, name, mood=None):
        """One pattern of a group, and its mood word."""
        group = GROUPS[name]
        templates = group.held if self.held and group.held else group.seen
        return templates[int(self.random() * len(templates))], mood


def _by_category(firms):
    found = {}
    for firm in firms:
        found.setdefault(firm.category, []).append(firm)
    return found


_FIRMS = {new: _by_category(firms) for new, firms in kindwords.FIRMS.items()}
_MOODS = {mood: [word for word in kindwords.MOODS if word.category == mood] for mood in ("good", "bad")}
_VERDICTS = {mood: [word for word in kindwords.VERDICTS if word.category == mood] for mood in ("good", "bad")}
_PRICES = {kind: [price for price in kindwords.PRICES if price.category == kind] for kind in ("cheap", "dear")}
_ITEMS = {category: [item for item in kindwords.ITEMS if item.category == category] for category in SHOPS}
_HARD = [thing for thing in kindwords.THINGS if thing.category == "hard"]
_EVENTS = {kind: {} for kind in ("diary", "letter")}
for _group in GROUPS.values():
    if _group.role == "e" and _group.topic:
        _EVENTS[_group.kind].setdefault(_group.topic, []).append(_group)
_DIARY_TOPICS = tuple(_EVENTS["diary"])
_LETTER_EVENTS = [group for groups in _EVENTS["letter"].values() for group in groups]
_SHOPS, _VENUES = tuple(sorted(SHOPS)), (("ate", ("bakery", "restaurant")), ("film", ("cinema",)), ("trip", ()))


# -- plans: one function a kind -------------------------------------------------------------------------------------------

def _feel(draw, plan, group, together, owner=""):
    """An event with its feeling, in one sentence or in two."""
    mood = draw.one(_MOODS[group.mood])
    if plan.moves[-1][1] is mood:            # the same word twice running would be clumsy
        mood = next(word for word in _MOODS[group.mood] if word is not mood)
    if together:
        plan.moves.append(draw.move(group.id, mood))
    else:
        plan.moves += [draw.move(group.id + "_alone"), draw.move(f"{plan.kind}_feel_{owner}{group.mood}", mood)]


def _things(draw, plan, hard):
    x, y = draw.two(kindwords.THINGS)
    if hard:
        while (x := draw.one(_HARD)) is y:
            pass
    plan.slots.update(X=x, Y=y, F=draw.one(kindwords.FOODS))


def _diary(draw):
    plan = Plan("diary", topic=draw.one(_DIARY_TOPICS))
    weather = draw.random()
    sky = "sun" if weather < .35 else "rain" if weather < .6 else None
    plan.slots.update(T=draw.one(kindwords.DAYS), B=draw.one(draw.people), L=draw.place({"sun": "outdoors", "rain": "indoors", None: None}[sky]))
    if sky and (plan.slots["L"].category == "outdoors") != (sky == "sun"):
        sky = None                           # too few places to fit the weather
    plan.moves = [draw.move("diary_date")] + ([draw.move("diary_" + sky)] if sky else []) + [draw.move("diary_go")]
    groups = _EVENTS["diary"][plan.topic]
    events = [draw.one(groups)]
    if draw.random() < .75:
        rest = [group for group in groups if group.theme != events[0].theme]
        events += [draw.one(rest)]
    _things(draw, plan, any(group.id == "diary_broke" for group in events))
    for number, group in enumerate(events):
        together = draw.random() < .5 or (sky is not None and number > 0)
        _feel(draw, plan, group, together, "b_" if group.id.startswith("diary_b_") else "")
        if group.id == "diary_lost" and draw.random() < .5:
            plan.moves.append(draw.move("diary_found", draw.one(_MOODS["good"])))
    plan.moves.append(draw.move("diary_end"))
    return plan


def _letter(draw):
    plan = Plan("letter")
    a, b, c = draw.three_people()
    first, second = draw.two(kindwords.DAYS)
    plan.slots.update(A=a, B=b, C=c, T=first, U=second, L=draw.place(), G=draw.firm(("school",)))
    _things(draw, plan, False)
    thanks, invite = draw.random() < .55, draw.random() < .4
    moves = plan.moves = [draw.move("letter_dear"), draw.move("letter_from")]
    if thanks:
        moves.append(draw.move("letter_thanks"))
        if draw.random() < .6:
            moves.append(draw.move("letter_like"))
    moves.append(draw.move("letter_news"))
    event = draw.one(_LETTER_EVENTS)
    _feel(draw, plan, event, draw.random() < .6)
    if invite:
        moves.append(draw.move("letter_invite"))
    moves += [draw.move("letter_bye"), draw.move("letter_sign")]
    plan.topic, plan.intent = event.topic, "thanks" if thanks else "invite" if invite else "news"
    return plan


_SCENES = {
    ("buy", True): ("shop_scene", "buy_ask buy_colour buy_price buy_cheap buy_yes buy_bye", "buy_end_yes"),
    ("buy", False): ("shop_scene", "buy_ask buy_colour buy_price buy_dear buy_no buy_sorry", "buy_end_no"),
    ("gift", True): ("gift_scene", "gift_offer gift_yes gift_give gift_thanks gift_welcome", "gift_end_yes"),
    ("gift", False): ("gift_scene", "gift_offer gift_no gift_fine", "gift_end_no"),
    ("meet", True): ("gift_scene", "meet_ask meet_go meet_may meet_yes", "meet_end_yes"),
    ("meet", False): ("gift_scene", "meet_ask meet_go meet_may meet_no", "meet_end_no")}
_SCENES = {key: (scene, {style: [f"{line}_{style}" for line in lines.split()] for style in STYLES}, end)
           for key, (scene, lines, end) in _SCENES.items()}
_SCENE_TOPICS = {"buy": "shopping", "gift": "presents", "meet": "travel"}


def _dialogue(draw):
    about, ends_well, style = draw.one(("buy", "gift", "meet")), draw.random() < .6, draw.one(STYLES)
    plan = Plan("dialogue", topic=_SCENE_TOPICS[about], intent=about)
    a, b, c = draw.three_people()
    shop = draw.firm(("device", "clothes", "toy"))
    plan.slots.update(A=a, B=b, C=c, T=draw.one(kindwords.DAYS), L=draw.place(), G=shop, O=draw.one(_ITEMS[shop.category]), X=draw.one(kindwords.THINGS),
                      V=draw.one(kindwords.COLOURS), P=draw.one(_PRICES["cheap" if ends_well else "dear"]))
    scene, lines, end = _SCENES[about, ends_well]
    mood = draw.one(_MOODS["good" if ends_well else "bad"])
    plan.moves = [draw.move(scene)] + [draw.move(line) for line in lines[style]] + [draw.move(end, mood)]
    return plan


def _review(draw, single=False):
    """A review; `single` asks for one cause and no verdict."""
    opening, categories = ("bought", _SHOPS) if draw.random() < .5 else draw.one(_VENUES)
    plan = Plan("review", topic=GROUPS["review_" + opening].topic)
    firm = draw.firm(categories) if categories else None
    plan.slots.update(B=draw.one(draw.people), T=draw.one(kindwords.DAYS), L=draw.place())
    if firm:
        plan.slots["G"] = firm
    key = opening
    if opening == "bought":
        key = firm.category
        plan.slots["O"] = draw.one(_ITEMS[key])
    first, second = draw.two(CLAIMS[key])
    while GROUPS[first[0]].theme == GROUPS[second[0]].theme:
        first, second = draw.two(CLAIMS[key])
    good = draw.random() < .5
    mood, form, verdict = "good" if good else "bad", draw.random(), draw.random() < .5
    if single or form < .25:
        claims = [first[not good]]
    elif form < .65:
        claims = [first[not good], second[not good]]
    else:
        claims = [first[good] + "_first", second[not good] + "_last"]
    plan.moves = [draw.move("review_" + opening)] + [draw.move(claim) for claim in claims]
    word = draw.one(_VERDICTS[mood])
    if verdict and not single:
        plan.moves.append(draw.move("verdict_" + mood, word))
    return plan


def _news(draw):
    plan = Plan("news")
    a, b, c = draw.three_people()
    plan.slots.update(A=a, B=b, C=c, T=draw.one(kindwords.DAYS), X=draw.one(kindwords.THINGS), N=draw.one(kindwords.NUMBERS))
    happy, sad = draw.one(_MOODS["good"]), draw.one(_MOODS["bad"])
    if draw.random() < .25:
        plan.topic = "school"
        plan.slots.update(L=draw.place("outdoors"), G=draw.firm(("school",)))
        plan.moves = [draw.move("news_open"), draw.move("news_lost"), draw.move("news_found"), draw.move("news_glad", happy)]
        return plan
    meeting = draw.one(kindwords.MEETINGS)
    plan.topic = meeting.category
    plan.slots.update(E=meeting, L=draw.place("outdoors"), G=draw.firm(kindwords.HOLDERS[plan.topic]))
    names = [("news_lead", None), ("news_crowd", None) if draw.random() < .6 else None, ("news_first", None),
             ("news_quote", happy) if draw.random() < .6 else None]
    if draw.random() < .5:
        names += [("news_second", None), ("news_sad", sad) if draw.random() < .5 else None]
    names.append(("news_next", None) if draw.random() < .5 else None)
    plan.moves = [draw.move(*name) for name in names if name]
    return plan


_REQUESTS = {"story": ("ask_story", "story_one", "story_two", "story_three", "story_four"), "thanks": ("ask_thanks", "do_thanks"),
             "invite": ("ask_invite", "do_invite"), "apology": ("ask_sorry", "do_sorry"), "list": ("ask_list", "do_list"),
             "where": ("ask_where", "do_where")}
_REQUEST_KEYS = tuple(_REQUESTS)


def _request(draw):
    about = draw.one(_REQUEST_KEYS)
    plan = Plan("request", intent="read" if about in ("list", "where") else about)
    a, b = draw.two(draw.people)
    plan.slots.update(A=a, B=b, L=draw.place(), T=draw.one(kindwords.DAYS))
    _things(draw, plan, False)
    mood = draw.one(_MOODS["good"])
    plan.moves = [draw.move(name, mood if name == "story_four" else None) for name in _REQUESTS[about]]
    return plan


_ASKED = tuple(FAQ)


def _question(draw):
    plan = Plan("question", topic="shopping", intent=draw.one(_ASKED))
    shop = draw.firm(_SHOPS)
    plan.slots.update(G=shop, O=draw.one(_ITEMS[shop.category]), T=draw.one(kindwords.DAYS), A=draw.one(draw.people), L=draw.place())
    order = [draw.move("ordered")] if plan.intent in ORDERED else []
    plan.moves = [draw.move("customer"), *order, draw.move("q_" + plan.intent), draw.move("reply_" + plan.intent)]
    if plan.intent == "unknown":
        plan.topic = None
    return plan


_PLANS = {"diary": _diary, "letter": _letter, "dialogue": _dialogue, "review": _review, "news": _news, "request": _request, "question": _question}


# -- writing ------------------------------------------------------------------------------------------------------------

def text(seed, lang="en", kind=None, new_names=False, new_templates=False):
    """Write one text; the same seed says the same in both languages.

    Args:
        seed: An integer; training uses seeds from 0 on, tests negative ones.
        lang: "en" or "zh".
        kind: One of `KINDS`, or None to draw it.
        new_names: Use only held-out people, places and organisations; otherwise only the others.
        new_templates: Use held-out patterns wherever a sentence has them; otherwise never.

    Returns:
        A `Text`.

    Raises:
        ValueError: If the language or the kind is unknown.

    >>> text(3, kind="question").reply == FAQ[text(3, kind="question").intent]["en"]
    True
    """
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be 'en' or 'zh'; got {lang!r}")
    if kind is not None and kind not in _PLANS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, or None; got {kind!r}")
    return _write(_plan(seed, kind, new_names, new_templates), lang, seed)


def _plan(seed, kind, new_names, held):
    draw = Draw(_rng(seed), new_names, held)
    drawn = draw.one(KINDS)
    return _PLANS[kind or drawn](draw)


def _rng(seed):
    return random.Random(2 * seed if seed >= 0 else -2 * seed - 1)      # random.Random forgets the sign of a seed


def _write(plan, lang, seed):
    """Write a plan out in one language."""
    slots, parts, at = plan.slots, [], 0
    sentences, spans, pronouns, causes, moods, used = [], [], [], [], [], {}
    spaced, explicit = False, False
    for template, mood in plan.moves:
        group = template.group
        if spaced and not template.breaks:
            parts.append(" ")
            at += 1
        start, filled = at, []
        for literal, slot, form, mark, time in template.pieces[lang]:
            if slot:
                value = mood if slot in "MW" else slots[slot]
                literal = value.forms[lang][form]
                if form in _ADDED:
                    parts.append(literal)
                    at += len(literal)
                    continue
                filled.append((slot, value))
                if value.type:
                    used[slot] = value
                    if form in _PRONOUNS:
                        pronouns.append((at, at + len(literal), value))
                    else:
                        spans.append((at, at + len(literal), value.type, value))
                elif slot in "MW":
                    explicit = True
                else:
                    used[slot] = value
            elif mark:
                if mark == "[":
                    begin = at
                else:
                    causes.append((begin, at))
                    moods.append(group.mood)
                continue
            elif time:
                spans.append((at, at + len(literal), "time", time))
            parts.append(literal)
            at += len(literal)
        sentences.append((start, at, template.id, filled))
        spaced = lang == "en" and not template.ends_line
    written = "".join(parts)
    prompt = answer = None
    if plan.kind in ("request", "question"):
        border = 1 if plan.kind == "request" else len(sentences) - 1
        skip = 1 if plan.kind == "request" else len(LABELS[lang])
        prompt, answer = (0, sentences[border - 1][1]), (sentences[border][0] + skip, at)
    sentiment = moods[0] if moods and moods.count(moods[0]) == len(moods) else None
    return Text(written, lang, plan.kind, seed, sentences, spans, pronouns, causes, moods, sentiment, explicit, plan.topic, plan.intent, prompt,
                answer, used)


_ADDED = {"prep", "post", "^prep"}
_PRONOUNS = {"he", "him", "his", "^he", "^him", "^his"}


# -- pairs that differ in one thing -----------------------------------------------------------------------------------------

_MAIN = {"diary": "B", "letter": "C", "dialogue": "A", "news": "A", "request": "A"}
"""The person of each kind whom `counterfactual` exchanges."""


def counterfactual(seed, lang="en", what="name", new_names=False):
    """Two texts that differ in exactly one thing.

    Args:
        seed: An integer, as for `text`.
        lang: "en" or "zh".
        what: "name": another person of the same gender; "gender": another person of the other gender, so the pronouns change too;
            "cause": of a review, the cause is turned round, and with it the sentiment.
        new_names: Use only held-out names.

    Returns:
        Two `Text`s.

    Raises:
        ValueError: If `what` is none of the three.
    """
    if what not in ("name", "gender", "cause"):
        raise ValueError(f"what must be 'name', 'gender' or 'cause'; got {what!r}")
    draw = Draw(_rng(seed), new_names, False)
    if what == "cause":
        plan = _review(draw, single=True)
        claim = plan.moves[1][0].group
        turned = GROUPS[claim.id.replace("_" + claim.mood, "_bad" if claim.mood == "good" else "_good")]
        other = Plan(plan.kind, [plan.moves[0], (turned.seen[0], None)], plan.slots, plan.topic, plan.intent)
        return _write(plan, lang, seed), _write(other, lang, seed)
    while True:
        kind = draw.one(tuple(_MAIN))
        plan, slot = _PLANS[kind](draw), _MAIN[kind]
        if any(piece.slot == slot and piece.form in _PRONOUNS for template, _ in plan.moves for piece in template.pieces["en"]):
            break
    person = plan.slots[slot]
    others = [other for other in draw.people if (other.category == person.category) == (what == "name") and other not in plan.slots.values()]
    other = Plan(plan.kind, plan.moves, plan.slots | {slot: draw.one(others)}, plan.topic, plan.intent)
    return _write(plan, lang, seed), _write(other, lang, seed)


@dataclass(slots=True)
class Preference:
    """A prompt with two answers: `rejected` is wrong by one `defect`, one of `DEFECTS`."""
    prompt: str
    chosen: str
    rejected: str
    defect: str


DEFECTS = ("wrong name", "wrong fact", "ungrammatical", "off topic", "rude")
RUDE = {"en": ("I do not want to.", "Go away.", "That is your problem.", "Do it yourself."), "zh": ("我不想管。", "你走开。", "那是你的事。", "你自己做吧。")}


def preference(seed, lang="en", new_names=False):
    """A request or question with a good answer and one that is wrong by one stated defect.

    Args:
        seed: An integer, as for `text`.
        lang: "en" or "zh".
        new_names: Use only held-out names.

    Returns:
        A `Preference`. Questions have no "wrong name" and no "wrong fact", because their replies name nobody and nothing.
    """
    draw = Draw(_rng(seed), new_names, False)
    if draw.random() < .6:
        plan, defect = _request(draw), draw.one(DEFECTS)
    else:
        plan, defect = _question(draw), draw.one(DEFECTS[2:])
    right = _write(plan, lang, seed)
    other, name, thing, place, day = (draw.one(options) for options in (_ASKED, draw.people, kindwords.THINGS, draw.places, kindwords.DAYS))
    rude, where = int(draw.random() * len(RUDE["en"])), draw.random()
    chosen = right.reply
    if defect == "ungrammatical":
        rejected = _jumbled(right, where)
    elif defect == "rude":
        rejected = RUDE[lang][rude]
    elif defect == "off topic":
        rejected = FAQ[other if other != plan.intent else _ASKED[(_ASKED.index(other) + 1) % len(_ASKED)]][lang]
    else:
        letters = {"A": name} if defect == "wrong name" else {"X": thing, "L": place, "T": day}
        said = {slot for _, _, _, filled in right.sentences[1:] for slot, _ in filled}
        slot = next(letter for letter in letters if letter in said)
        rejected = _exchanged(plan, slot, letters[slot], draw, lang, seed)
    return Preference(right.text[slice(*right.prompt)], chosen, rejected, defect)


def _exchanged(plan, slot, value, draw, lang, seed):
    """The answer as it would be with another entity in one slot."""
    options = {"A": draw.people, "X": kindwords.THINGS, "L": draw.places, "T": kindwords.DAYS}[slot]
    while value in plan.slots.values():
        value = options[(options.index(value) + 1) % len(options)]
    return _write(Plan(plan.kind, plan.moves, plan.slots | {slot: value}), lang, seed).reply


_SMALL = {"en": set("a the to of for and that by or in on at from with within".split()), "zh": set("的 了 在 和 一".split())}
"""Words that cannot change places with a neighbour."""


def _jumbled(right, where):
    """The answer with a small word moved before or behind its neighbour or, where it has none, with one word said twice."""
    before, chosen = right.text[:right.answer[0]], right.reply
    cut = chosen.split(" ") if right.lang == "en" else segment(chosen)
    joint = " " if right.lang == "en" else ""
    plain = [word.isalpha() for word in cut]
    pairs = [at for at in range(len(cut) - 1) if plain[at] and plain[at + 1] and {cut[at], cut[at + 1]} & _SMALL[right.lang]]
    tries = [cut[:at] + [cut[at + 1], cut[at]] + cut[at + 2:] for at in pairs]
    tries = tries or [cut[:at] + [cut[at]] + cut[at:] for at in range(1, len(cut) - 1) if plain[at]]
    for shift in range(len(tries)):
        tried = joint.join(tries[(int(where * len(tries)) + shift) % len(tries)])
        report = kindcheck.check_text(before + tried, right.lang, right.kind)
        if not report.ok or report.rest:
            return tried
    raise AssertionError(f"no change of words makes this wrong: {chosen}")


# -- words --------------------------------------------------------------------------------------------------------------

def _lexicon():
    """All Chinese words of these texts."""
    found = set(kindgrammar.LEXICON) | {"一", "那", "这", "我", "你", "他", "她", "的", "是"} | set(kindwords.PARTS)
    for entities in kindwords.CHOICES.values():
        found |= {entity.zh for entity in entities if entity.type in (None, "person", "place", "time") or entity.category == "food"}
    return {word for word in found | {time.zh for time in kindgrammar.TIMES.values()} if not word.isdigit()}


LEXICON = _lexicon()


def segment(chinese, lexicon=LEXICON):
    """Cut a Chinese text of these kinds into its words, the longest first; numbers are one word, anything unknown one character.

    >>> segment("我是青山小学的小明。")
    ['我', '是', '青山', '小学', '的', '小明', '。']
    """
    result, at, longest = [], 0, max(map(len, lexicon))
    while at < len(chinese):
        end = at + 1
        if chinese[at].isdigit():
            while end < len(chinese) and chinese[end].isdigit():
                end += 1
        else:
            end = next((stop for stop in range(min(len(chinese), at + longest), at + 1, -1) if chinese[at:stop] in lexicon), end)
        result.append(chinese[at:end])
        at = end
    return result
