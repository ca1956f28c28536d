"""The sentences of the story world, each as an English and a Chinese pattern of one event.

A slot is written `{A}` or `{A:form}`. Forms: of a person none (name or, where it is the subject, perhaps a pronoun), `he`
(always a pronoun), `name` (always the name), `his` ("Lily's", or where it begins the sentence perhaps "her"); of a thing none ("the red ball" or "the ball"), `that` (the same, in Chinese with 那 and the measure word), `a`
("a red ball"), `it`. The same patterns are read backwards by `read`, so what can be told can be
checked.
"""
import re
from functools import cache

from . import words
from .words import Person, Thing

PATTERNS = {
    "weather_nice": [("The weather is nice today.", "今天天气真好。"), ("It is sunny today.", "今天阳光很好。"), ("It is warm today.", "今天很暖和。")],
    "weather_bad": [("The weather is bad today.", "今天天气不好。"), ("It is raining today.", "今天下雨了。"), ("It is very cold today.", "今天很冷。")],
    "named": [("Once there was a {G} named {A:name}.", "从前有个{G}叫{A:name}。")],
    "go": [("{T}, {A} went to {L}.", "{T}，{A}去了{L}。")],
    "go_two": [("{T}, {A} and {B} went to {L}.", "{T}，{A}和{B}去了{L}。")],
    "go_three": [("{T}, {A}, {B} and {D} went to {L}.", "{T}，{A}、{B}和{D}去了{L}。")],
    "meet": [("{A} met {B} there.", "{A}在那里遇见了{B}。"), ("{A} saw {B} there.", "{A}在那里看见了{B}。")],
    "come": [("{B:name} came, too.", "{B:name}也来了。"), ("{B:name} was there, too.", "{B:name}也在那里。")],
    "have": [("{A} had {O:a}.", "{A}有{O:a}。"), ("{A} brought {O:a}.", "{A}带来了{O:a}。")],
    "find": [("{A} found {O:a} {S}.", "{A}{S}捡到了{O:a}。")],
    "want": [("{B} wanted {O}.", "{B}很想要{O:that}。"), ("{B} liked {O} very much.", "{B}非常喜欢{O:that}。")],
    "ask": [("{B} asked {A} for {O}.", "{B}向{A}要{O:that}。")],
    "refuse": [("But {A} said no.", "可是{A}不同意。")],
    "give": [("{A} gave {O} to {B}.", "{A}把{O}给了{B}。"), ("{A} gave {B} {O}.", "{A}给了{B}{O:that}。")],
    "give_asked": [("{A} gave {B} {O} because {B:he} asked for {O:it}.", "{A}把{O}给了{B}，因为{B:he}想要{O:it}。")],
    "give_unneeded": [("{A} gave {B} {O} because {A:he} did not need {O:it}.", "{A}把{O}给了{B}，因为{A:he}不需要{O:it}。")],
    "thank": [("“Thank you, {A:name},” said {B:name}.", "{B:name}对{A:name}说：“谢谢你。”"), ("{B} thanked {A:name}.", "{B}向{A:name}道谢。")],
    "happy": [("{A} was happy.", "{A}很高兴。"), ("{A} smiled.", "{A}笑了。")],
    "happy_because": [("{A:name} was happy because {A:he} had {O}.", "{A:name}很高兴，因为{A:he}有了{O:that}。")],
    "sad": [("{A} was sad.", "{A}很难过。"), ("{A} cried.", "{A}哭了。")],
    "sad_because": [("{A:name} was sad because {A:he} could not find {O}.", "{A:name}很难过，因为{A:he}找不到{O:that}了。")],
    "lose": [("{A} lost {O}.", "{A}把{O}弄丢了。")],
    "find_lost": [("{B} found {O} {S}.", "{B}{S}找到了{O:that}。")],
    "give_back": [("{A} gave {O:it} back to {B}.", "{A}把{O:it}还给了{B}。"), ("{A} gave {O} back to {B}.", "{A}把{O}还给了{B}。")],
    "put": [("{A} put {O} in {C}.", "{A}把{O}放进了{C}里。")],
    "take_out": [("{A} took {O} out of {C}.", "{A}从{C}里拿出了{O:that}。")],
    "move": [("{A} moved {O} from {C} to {D}.", "{A}把{O}从{C}里移到了{D}里。")],
    "like": [("{A} liked {F}.", "{A}喜欢吃{F}。")],
    "eat": [("{A} ate some {F}.", "{A}吃了一些{F}。")],
    "dream": [("{A} wanted to be a {J}.", "{A}想当{J}。")],
    "dream_again": [("{A:his} dream was to be a {J}.", "{A:his}梦想是当{J}。")],
    "colour": [("{A:his} favourite colour was {K}.", "{A}最喜欢的颜色是{K}。")],
    "colour_again": [("{A} liked {K} best.", "{A}最喜欢{K}。")],
    "pet": [("{A} had a {Y} at home.", "{A}家里有{Y:a}。")],
    "pet_again": [("{A:his} {Y} was very clever.", "{A:his}{Y}很聪明。")],
    "greet": [("{A} waved to {B}.", "{A}向{B}挥了挥手。"), ("{A} smiled at {B}.", "{A}对{B}笑了笑。"),
              ("{A} sat down next to {B}.", "{A}在{B}旁边坐下了。"), ("{A} talked to {B}.", "{A}和{B}聊了一会儿。")],
    "sing": [("{A} sang a song.", "{A}唱了一首歌。")],
    "tired": [("{A} was tired.", "{A}累了。")],
    "hungry": [("{A} was hungry.", "{A}饿了。")],
    "drink": [("{A} drank some water.", "{A}喝了一些水。")],
    "rest": [("{A} rested for a while.", "{A}休息了一会儿。")],
    "look": [("{A} looked at the clouds.", "{A}看了看天上的云。")],
    "run": [("{A} ran very fast.", "{A}跑得很快。")],
    "together": [("They played together.", "{P}一起玩。"), ("They laughed.", "{P}都笑了。"), ("They sang a song.", "{P}唱了一首歌。"),
                 ("They talked for a long time.", "{P}聊了很久。")],
    "leave": [("{A} went home.", "{A}回家了。")],
    "end": [("At last, they all went home.", "最后，{P}都回家了。")],
    "ask_about_holder": [("\nQuestion: Who has {O} now? Answer: {A:name}.", "\n问：现在谁有{O:that}？答：{A:name}。")],
    "ask_about_inside": [("\nQuestion: Where is {O} now? Answer: In {C}.", "\n问：{O:that}现在在哪里？答：在{C}里。")],
    "ask_about_food": [("\nQuestion: What does {A:name} like? Answer: {F:start}.", "\n问：{A:name}喜欢吃什么？答：{F:start}。")],
    "ask_about_eater": [("\nQuestion: Who likes {F}? Answer: {A:name}.", "\n问：谁喜欢吃{F}？答：{A:name}。")],
    "ask_about_dream": [("\nQuestion: What does {A:name} want to be? Answer: A {J}.", "\n问：{A:name}想当什么？答：{J}。")],
    "ask_about_dreamer": [("\nQuestion: Who wants to be a {J}? Answer: {A:name}.", "\n问：谁想当{J}？答：{A:name}。")],
    "ask_about_colour": [("\nQuestion: Which colour does {A:name} like best? Answer: {K:start}.", "\n问：{A:name}最喜欢什么颜色？答：{K:start}。")],
    "ask_about_colour_fan": [("\nQuestion: Who likes {K} best? Answer: {A:name}.", "\n问：谁最喜欢{K}？答：{A:name}。")],
    "ask_about_pet": [("\nQuestion: What does {A:name} have at home? Answer: A {Y}.", "\n问：{A:name}家里有什么？答：{Y}。")],
    "ask_about_pet_owner": [("\nQuestion: Who has a {Y} at home? Answer: {A:name}.", "\n问：谁家里有{Y:a}？答：{A:name}。")],
    "ask_about_giver": [("\nQuestion: Who gave {O} to {B:name}? Answer: {A:name}.", "\n问：谁把{O}给了{B:name}？答：{A:name}。")],
    "ask_about_happy": [("\nQuestion: Is {A:name} happy or sad? Answer: Happy.", "\n问：{A:name}高兴还是难过？答：高兴。")],
    "ask_about_sad": [("\nQuestion: Is {A:name} happy or sad? Answer: Sad.", "\n问：{A:name}高兴还是难过？答：难过。")],
}
NEW_PATTERNS = {
    "like": [("{A} liked to eat {F}.", "{A}很喜欢吃{F}。")],
    "have": [("Now {A} had {O:a}.", "现在{A}有{O:a}。")],
    "dream": [("What {A} wanted to be was a {J}.", "{A}想当的是{J}。")],
    "ask_about_food": [("\nQuestion: {A:name} likes what? Answer: {F:start}.", "\n问：{A:name}喜欢吃的是什么？答：{F:start}。")],
    "ask_about_dream": [("\nQuestion: What is {A:name}'s dream? Answer: To be a {J}.", "\n问：{A:name}的梦想是什么？答：当{J}。")],
    "ask_about_colour": [("\nQuestion: What is {A:name}'s favourite colour? Answer: {K:start}.", "\n问：{A:name}最喜欢的颜色是什么？答：{K:start}。")],
    "ask_about_holder": [("\nQuestion: Who now has {O}? Answer: {A:name}.", "\n问：谁现在有{O:that}？答：{A:name}。")],
    "ask_about_inside": [("\nQuestion: What is {O} in now? Answer: In {C}.", "\n问：现在{O:that}在哪里？答：在{C}里。")],
}
"""Held out: other words for the same events, never seen in training; the checker reads them too."""
ALL = {kind: versions + NEW_PATTERNS.get(kind, []) for kind, versions in PATTERNS.items()}
LINKS = [("Then ", "然后，"), ("Later, ", "后来，"), ("Soon ", "不久，")]
NO_LINK = {kind for kind in PATTERNS
           if kind.startswith(("weather", "go", "named", "thank", "end", "ask_about", "refuse", "like", "happy", "sad", "have", "want", "together", "dream", "colour", "pet",
                             "tired", "hungry"))}
PRONOUNS = {"en": {True: "she", False: "he"}, "zh": {True: "她", False: "他"}}
POSSESSIVE = {"en": {True: "her", False: "his"}, "zh": {True: "她的", False: "他的"}}
OF = {"en": "'s", "zh": "的"}
IT = {"en": "it", "zh": "它"}
THEY = {True: "她们", False: "他们"}
ANSWER_SLOT = {"ask_about_holder": "A", "ask_about_inside": "C", "ask_about_food": "F", "ask_about_eater": "A", "ask_about_giver": "A",
               "ask_about_dream": "J", "ask_about_dreamer": "A", "ask_about_colour": "K", "ask_about_colour_fan": "A", "ask_about_pet": "Y",
               "ask_about_pet_owner": "A"}


@cache
def parts(kind, number, lang):
    """Split a pattern into literal strings and (slot, form) pairs."""
    pattern = ALL[kind][number][words.LANGUAGES.index(lang)]
    split = re.split(r"\{(\w+)(?::(\w+))?\}", pattern)
    result = []
    for i in range(0, len(split), 3):
        if split[i]:
            result.append(split[i])
        if i + 1 < len(split):
            result.append((split[i + 1], split[i + 2] or ""))
    return result


def thing(value, form, lang):
    """Write a thing: `full` "the red ball", `short` "the ball", `that full`, `that short`, `a` "a red ball", `it`."""
    if form == "it":
        return IT[lang]
    colour, noun = value.colour, value.noun
    if lang == "en":
        described = noun.en if form.endswith("short") else f"{colour.en} {noun.en}"
        return f"a {described}" if form == "a" else f"the {described}"
    described = noun.zh if form.endswith("short") else f"{colour.zh}的{noun.zh}"
    before = "一" if form == "a" else "那" if form.startswith("that") else ""
    return before + (noun.measure if before else "") + described


def word(value, form, lang):
    """Write a place, container, food, colour, spot, time or gender."""
    if lang == "zh":
        return f"一{value.measure}{value.zh}" if form == "a" else value.zh
    if value in _WITH_THE:
        return f"the {value.en}"
    return value.en.capitalize() if form == "start" else value.en


# -- reading -----------------------------------------------------------------------------------------------------------

_WITH_THE = frozenset(words.PLACES + words.NEW_PLACES + words.CONTAINERS)
SLOTS = {"L": words.PLACES + words.NEW_PLACES, "J": words.DREAMS, "K": words.COLOURS, "Y": words.PETS, "C": words.CONTAINERS, "F": words.FOODS, "S": words.SPOTS, "T": words.TODAY + words.ONCE,
         "G": list(words.GENDERS.values())}
THINGS = [Thing(colour, noun) for colour in words.COLOURS for noun in words.NOUNS]


def _choices(kind, slot, form, lang):
    """All texts that may stand in a slot, each with what it means: a word, a pronoun's gender, a noun or "it"."""
    if slot == "P":
        return {"他们": None, "她们": None}
    if slot in "ABD" and not (slot == "D" and kind == "move"):
        of = OF[lang] if form == "his" else ""
        names = {getattr(person, lang) + of: person for person in words.PEOPLE + words.NEW_PEOPLE}
        pronouns = {text: ("pronoun", female) for female, text in (POSSESSIVE if of else PRONOUNS)[lang].items()}
        return pronouns if form == "he" else names if form == "name" else names | (pronouns if subject(kind, slot, lang) else {})
    if slot == "O":
        if form == "it":
            return {IT[lang]: ("it",)}
        if form == "a":
            return {thing(value, "a", lang): value for value in THINGS}
        full = {thing(value, f"{form} full".strip(), lang): value for value in THINGS}
        short = {thing(Thing(words.COLOURS[0], noun), f"{form} short".strip(), lang): noun for noun in words.NOUNS}
        return full | short
    return {word(value, form, lang): value for value in (words.CONTAINERS if slot == "D" else SLOTS[slot])}


@cache
def subject(kind, slot, lang):
    """True if `slot` is the subject of its sentence, where a pronoun may stand for a name."""
    pieces = parts(kind, 0, lang)
    first = next((piece for piece in pieces if not isinstance(piece, str) and piece[0] in "ABD"), None)
    return first in ((slot, ""), (slot, "his")) and kind not in ("go_two", "go_three")


@cache
def readers(lang):
    """Compile every pattern into a regular expression: a list of (kind, regex, slots, choices)."""
    result = []
    for kind, versions in ALL.items():
        for number in range(len(versions)):
            for linked in ([False] if kind in NO_LINK else [False, True]):
                result.append((kind, *_reader(kind, number, lang, linked)))
    return result


def _reader(kind, number, lang, linked):
    regex, slots = "", []
    if linked:
        regex = "(?:" + "|".join(re.escape(pair[words.LANGUAGES.index(lang)]) for pair in LINKS) + ")"
    for i, piece in enumerate(parts(kind, number, lang)):
        if isinstance(piece, str):
            regex += re.escape(piece)
            continue
        choices = _choices(kind, *piece, lang)
        if i == 0 and not linked and lang == "en":
            choices = {text[:1].upper() + text[1:]: value for text, value in choices.items()}
        slots.append((*piece, choices))
        regex += "(" + "|".join(sorted(map(re.escape, choices), key=len, reverse=True)) + ")"
    return re.compile(regex), slots
