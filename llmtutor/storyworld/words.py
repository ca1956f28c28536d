"""The lexicon of the story world: every person, thing, colour, place, container and food, in English and Chinese.

Half of the people have names from the English-speaking world and half from the Chinese one, so neither edition reads as a
translation of the other. A name has one gender in this world, and it has to be learned: nothing in `Ming` says "he".
"""
from dataclasses import dataclass
from typing import NamedTuple

# Every person, noun and word exists once, so being the same is being identical; that is also much faster to look up.


@dataclass(frozen=True, eq=False)
class Person:
    en: str
    zh: str
    female: bool


@dataclass(frozen=True, eq=False)
class Noun:
    """A thing: `en` and `zh` are its names, `measure` is the Chinese measure word (一*把*雨伞)."""
    en: str
    zh: str
    measure: str = "个"


@dataclass(frozen=True, eq=False)
class Word:
    """A place, container, food, colour, spot, dream or pet; `prep` is the English preposition where one is needed."""
    en: str
    zh: str
    prep: str = ""
    outdoors: bool = False
    measure: str = "个"


class Thing(NamedTuple):
    """One thing of a story: a noun with its colour, for instance the red ball."""
    colour: Word
    noun: Noun


def _people(female, *pairs):
    return [Person(*pair.split("/"), female) for pair in pairs]


PEOPLE = (
    _people(True, "Lily/莉莉", "Anna/安娜", "Emma/艾玛", "Lucy/露西", "Mary/玛丽", "Alice/爱丽丝", "Sara/萨拉", "Amy/艾米",
            "Mei/小梅", "Lan/小兰", "Hong/小红", "Fang/小芳", "Yan/小燕", "Li/小丽", "Yun/小云", "Juan/小娟")
    + _people(False, "Tom/汤姆", "Jack/杰克", "Sam/山姆", "Max/麦克斯", "John/约翰", "Peter/彼得", "David/大卫", "Leo/里奥",
              "Ming/小明", "Gang/小刚", "Jun/小军", "Qiang/小强", "Wei/小伟", "Bo/小波", "Lei/小雷", "Hai/小海"))
NEW_PEOPLE = (
    _people(True, "Nora/诺拉", "Grace/格蕾丝", "Julia/茱莉亚", "Helen/海伦", "Ying/小英", "Xue/小雪", "Ping/小萍", "Qing/小青")
    + _people(False, "Oscar/奥斯卡", "Henry/亨利", "Adam/亚当", "Paul/保罗", "Tao/小涛", "Peng/小鹏", "Feng/小峰", "Dong/小东"))
"""Held out: in training they appear only in plain stories, where nothing is said of them that could be asked for."""
NOUNS = [Noun(*entry.split("/")) for entry in (
    "ball/球/个", "book/书/本", "kite/风筝/只", "key/钥匙/把", "hat/帽子/顶", "cup/杯子/个", "pen/钢笔/支", "map/地图/张",
    "doll/娃娃/个", "lamp/台灯/盏", "bell/铃铛/个", "scarf/围巾/条")]
COLOURS = [Word(*entry.split("/")) for entry in ("red/红色", "blue/蓝色", "green/绿色", "yellow/黄色", "white/白色", "black/黑色")]
PLACES = (
    [Word(en, zh, prep, True) for en, zh, prep in (
        ("park", "公园", "in"), ("beach", "海边", "on"), ("garden", "花园", "in"), ("zoo", "动物园", "at"),
        ("farm", "农场", "on"), ("forest", "森林", "in"), ("lake", "湖边", "at"))]
    + [Word(en, zh, prep, False) for en, zh, prep in (
        ("library", "图书馆", "in"), ("school", "学校", "at"), ("museum", "博物馆", "in"), ("station", "车站", "at"),
        ("shop", "商店", "in"))])
NEW_PLACES = [Word("river", "河边", "by", True), Word("market", "市场", "at", True), Word("cinema", "电影院", "at"), Word("bakery", "面包店", "in")]
"""Held out: in training only plain stories go there."""
CONTAINERS = [Word(*entry.split("/")) for entry in ("box/盒子", "bag/袋子", "basket/篮子", "jar/罐子", "suitcase/箱子", "bucket/水桶")]
FOODS = [Word(*entry.split("/")) for entry in (
    "apples/苹果", "pears/梨", "cakes/蛋糕", "noodles/面条", "dumplings/饺子", "bread/面包", "cheese/奶酪", "eggs/鸡蛋")]
DREAMS = [Word(*entry.split("/")) for entry in (
    "nurse/护士", "teacher/老师", "farmer/农民", "doctor/医生", "driver/司机", "singer/歌手", "baker/面包师", "painter/画家", "writer/作家", "pilot/飞行员")]
PETS = [Word(en, zh, measure=measure) for en, zh, measure in (
    ("dog", "狗", "只"), ("cat", "猫", "只"), ("bird", "小鸟", "只"), ("rabbit", "兔子", "只"), ("fish", "金鱼", "条"), ("horse", "小马", "匹"),
    ("duck", "鸭子", "只"), ("sheep", "小羊", "只"))]
SPOTS = [Word(*entry.split("/")) for entry in ("under a bench/在长椅下面", "on a table/在桌子上", "on the ground/在地上", "near a wall/在墙边")]
TODAY = [Word(*entry.split("/")) for entry in ("This morning/今天早上", "This afternoon/今天下午")]
ONCE = [Word(*entry.split("/")) for entry in ("One day/有一天", "One morning/一天早上", "One afternoon/一天下午")]
GENDERS = {True: Word("girl", "女孩"), False: Word("boy", "男孩")}

LANGUAGES = ("en", "zh")

FUNCTION_WORDS = set("""今天 天气 真 好 阳光 很 暖和 不 下雨 了 冷 从前 有 个 叫 去 和 在 那里 遇见 看见 也 来 带来 捡到 想要 非常 喜欢 向 要 可是 同意
把 给 因为 它 需要 对 说 谢谢 你 道谢 高兴 笑 找不到 难过 哭 弄丢 找到 还给 放进 里 从 拿出 移到 吃 一些 他们 她们 他 她 一起 玩 都 唱 一首 歌 聊 很久
回家 最后 问 答 现在 谁 哪里 什么 还是 然后 后来 不久 的 一 那 只 把 顶 支 张 盏 条 本 匹 想 当 梦想 是 最 颜色 家里 养 聪明 挥了挥手 笑了笑 旁边 坐下
散步 唱歌 累 休息 一会儿 饿 水 喝 跑 步 吃饭 很多 人 天上 云 白 树下 看""".split())


def _lexicon():
    entries = PEOPLE + NEW_PEOPLE + NOUNS + COLOURS + PLACES + NEW_PLACES + DREAMS + PETS + CONTAINERS + FOODS + SPOTS + TODAY + ONCE + list(GENDERS.values())
    spots = {"长椅", "下面", "桌子", "上", "地上", "墙边", "早上", "下午", "一天", "有一天"}
    return FUNCTION_WORDS | spots | {entry.zh for entry in entries} - {entry.zh for entry in SPOTS + TODAY + ONCE}


LEXICON = _lexicon()


def segment(text):
    """Cut Chinese text of the story world into its words, greedily, the longest first; anything unknown is one character.

    >>> segment("莉莉有一个红色的球。")
    ['莉莉', '有', '一', '个', '红色', '的', '球', '。']
    """
    result, start, longest = [], 0, max(map(len, LEXICON))
    while start < len(text):
        end = next((e for e in range(min(len(text), start + longest), start + 1, -1) if text[start:e] in LEXICON), start + 1)
        result.append(text[start:end])
        start = end
    return result
