"""The words of the other text kinds: who, where, what, which organisation and when, each with the forms it takes in both languages.

Every word is an `Entity`: its English and Chinese forms are made once, here, so that writing a text is only looking them up, and
reading one back is looking up which entities a form may mean.
"""
from . import words

LANGUAGES = words.LANGUAGES


class Entity:
    """Something a text can speak of.

    Attributes:
        en, zh: Its plain name in each language.
        type: "person", "place", "thing", "organisation", "time", or None for a word that is no entity (a feeling, a price).
        category: What decides with which sentences it may stand, for instance "device" for a lamp, "f" for a girl.
        forms: For each language a table of its forms; `^` before a form means "at the start of a sentence".
    """
    __slots__ = ("en", "zh", "type", "category", "forms")

    def __init__(self, en, zh, type, category="", en_forms=None, zh_forms=None):
        self.en, self.zh, self.type, self.category = en, zh, type, category
        forms = {"": en} | (en_forms or {})
        self.forms = {"en": forms | {"^" + form: text[:1].upper() + text[1:] for form, text in forms.items()},
                      "zh": {form: zh for form in forms} | {"^" + form: zh for form in forms}}
        for form, text in (zh_forms or {}).items():
            self.forms["zh"][form] = self.forms["zh"]["^" + form] = text

    def __repr__(self):
        return f"<{self.en}>"


def an(english):
    """Put "a" or "an" before an English noun."""
    return ("an " if english[0] in "aeiou" else "a ") + english


def person(entry):
    """A person of the story world, with the pronouns that the gender asks for."""
    pronoun = "她" if entry.female else "他"
    he, him, his = ("she", "her", "her") if entry.female else ("he", "him", "his")
    return Entity(entry.en, entry.zh, "person", "f" if entry.female else "m", {"he": he, "him": him, "his": his},
                  {"he": pronoun, "him": pronoun, "his": pronoun + "的"})


def place(entry):
    """A place: "the park", with what stands before it, "in ", and in Chinese after it, 里, to say where something is."""
    return Entity(f"the {entry.en}", entry.zh, "place", "outdoors" if entry.outdoors else "indoors",
                  {"prep": entry.prep + " ", "post": ""}, {"prep": "", "post": "里" if entry.prep == "in" else ""})


PARTS = {"里"}
"""The Chinese words of which names of things and organisations are made."""


def item(en, zh, measure, category, colour=None):
    """A thing or product: "the lamp", "a lamp", "my lamp", "lamp"; in Chinese with its measure word where one is needed."""
    PARTS.update((measure, zh))
    full, short = zh, zh
    if colour:
        en, full, short = f"{colour.en} {en}", f"{colour.zh}的{zh}", colour.zh + ("的" if len(zh) == 1 else "") + zh      # after 我的 a second 的 would be clumsy
    return Entity(f"the {en}", f"那{measure}{full}", "thing", category,
                  {"a": an(en), "my": f"my {en}", "your": f"your {en}", "bare": en, "short": an(en)},
                  {"a": f"一{measure}{full}", "my": f"我的{short}", "your": f"你的{short}", "bare": short, "short": f"一{measure}{short}"})


def _organisations(table):
    """One line a type: `type|Chinese type|category`, then the heads, `Sunrise/日出`."""
    found = []
    for line in table.strip().splitlines():
        (en, zh, category), heads = line.split(":")[0].split("|"), line.split(":")[1].split(",")
        PARTS.update([zh] + [head.split("/")[1].strip() for head in heads])
        found += [Entity(f"{head.split('/')[0].strip()} {en}", head.split("/")[1].strip() + zh, "organisation", category) for head in heads]
    return found


ORGANISATIONS = _organisations("""
Bakery|面包店|bakery: Sunrise/日出, Rainbow/彩虹
Restaurant|饭店|restaurant: Golden River/金河, Spring Wind/春风, Old Bridge/老桥
Cinema|电影院|cinema: Red Star/红星, Blue Sky/蓝天
Toy Shop|玩具店|toy: Rainbow/彩虹, White Cloud/白云, Big Tree/大树
Bookshop|书店|book: New Moon/新月, Green Hill/青山, Red Star/红星
Clothes Shop|服装店|clothes: Four Seasons/四季, Spring Wind/春风, Silver Lake/银湖
Home Shop|家居店|device: Sunrise/日出, New Moon/新月, Golden River/金河
School|小学|school: Green Hill/青山, Old Bridge/老桥, White Cloud/白云
Football Club|足球俱乐部|club: Big Tree/大树, Silver Lake/银湖, Blue Sky/蓝天
""")
NEW_ORGANISATIONS = _organisations("""
Bakery|面包店|bakery: North Gate/北门
Restaurant|饭店|restaurant: South Lake/南湖
Cinema|电影院|cinema: Little Bird/小鸟
Toy Shop|玩具店|toy: North Gate/北门
Bookshop|书店|book: Long Street/长街
Clothes Shop|服装店|clothes: Little Bird/小鸟
Home Shop|家居店|device: South Lake/南湖
School|小学|school: Stone Tower/石塔
Football Club|足球俱乐部|club: Long Street/长街
""")

ITEMS = [item(*entry.split("/")) for entry in (
    "lamp/台灯/盏/device", "clock/闹钟/个/device", "radio/收音机/台/device", "camera/照相机/台/device",
    "coat/大衣/件/clothes", "dress/裙子/条/clothes", "sweater/毛衣/件/clothes", "shirt/衬衫/件/clothes",
    "doll/娃娃/个/toy", "toy car/玩具车/辆/toy", "toy train/玩具火车/列/toy", "toy robot/玩具机器人/个/toy",
    "storybook/故事书/本/book", "dictionary/词典/本/book", "cookbook/菜谱/本/book", "picture book/图画书/本/book")]
"""Products that shops sell; the category is the kind of shop."""

THINGS = [item(*entry.split("/"), colour) for colour in words.COLOURS for entry in (
    "ball/球/个/soft", "kite/风筝/只/hard", "hat/帽子/顶/soft", "pen/钢笔/支/hard", "scarf/围巾/条/soft", "umbrella/雨伞/把/hard",
    "cup/杯子/个/hard", "bag/书包/个/soft")]
"""Things of one's own, that are given, lost and found; what is hard can break."""

PEOPLE = {False: [person(entry) for entry in words.PEOPLE], True: [person(entry) for entry in words.NEW_PEOPLE]}
PLACES = {False: [place(entry) for entry in words.PLACES], True: [place(entry) for entry in words.NEW_PLACES]}
FIRMS = {False: ORGANISATIONS, True: NEW_ORGANISATIONS}
FOODS = [Entity(entry.en, entry.zh, "thing", "food") for entry in words.FOODS]
DAYS = [Entity(en, zh, "time") for en, zh in zip(
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(), "星期一 星期二 星期三 星期四 星期五 星期六 星期日".split())]
COLOURS = [Entity(entry.en, entry.zh, None, "colour", {"a": an(entry.en)}) for entry in words.COLOURS]
PRICES = [Entity(str(price), str(price), None, "cheap" if price < 50 else "dear") for price in (25, 30, 40, 45, 300, 500, 800, 900)]
NUMBERS = [Entity(str(number), str(number), None) for number in (20, 30, 50, 80, 100, 200)]
MOODS = [Entity(en, zh, None, mood) for en, zh, mood in (
    ("happy", "高兴", "good"), ("glad", "开心", "good"), ("sad", "难过", "bad"), ("unhappy", "不高兴", "bad"))]
VERDICTS = [Entity(en, zh, None, mood) for en, zh, mood in (
    ("happy", "高兴", "good"), ("pleased", "满意", "good"), ("unhappy", "不高兴", "bad"), ("disappointed", "失望", "bad"))]
MEETINGS = [Entity(en, zh, None, topic, {"a": an(en), "the": "the " + en}, {"a": "一场" + zh, "the": zh}) for en, zh, topic in (
    ("dancing contest", "舞蹈比赛", "music"), ("singing contest", "歌唱比赛", "music"), ("running race", "跑步比赛", "games"),
    ("jumping contest", "跳高比赛", "games"), ("cooking contest", "厨艺比赛", "food"),
    ("reading contest", "读书比赛", "school"), ("writing contest", "写字比赛", "school"))]
"""What an organisation can hold; `category` is its topic."""
PARTS.update(("一", "场"))
HOLDERS = {"music": ("school", "cinema", "restaurant"), "games": ("school", "club", "toy"), "food": ("restaurant", "bakery", "device"),
           "school": ("school", "book")}
"""Which organisations hold which meetings."""

SLOTS = {"A": "person", "B": "person", "C": "person", "L": "place", "G": "organisation", "O": "item", "X": "thing", "Y": "thing", "F": "food",
         "T": "day", "U": "day", "V": "colour", "P": "price", "N": "number", "M": "mood", "W": "verdict", "E": "meeting"}
"""What each slot letter of a template stands for. One letter is one entity throughout a text, moods excepted."""

CHOICES = {"person": PEOPLE[False] + PEOPLE[True], "place": PLACES[False] + PLACES[True], "organisation": ORGANISATIONS + NEW_ORGANISATIONS,
           "item": ITEMS, "thing": THINGS, "food": FOODS, "day": DAYS, "colour": COLOURS, "price": PRICES, "number": NUMBERS,
           "mood": MOODS, "verdict": VERDICTS, "meeting": MEETINGS}
