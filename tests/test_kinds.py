"""The other text kinds: what is written is read back, carries its truth, and planted errors are rejected, in both languages."""
import re
import time

import pytest

from llmtutor.storyworld import kindgrammar, kinds, kindwords, words
from llmtutor.storyworld.kindcheck import check_text
from llmtutor.storyworld.kinds import KINDS, counterfactual, preference, text

LANGUAGES = words.LANGUAGES
SEEDS = range(-1, -121, -1)
SPLITS = [(False, False), (True, False), (False, True), (True, True)]
POINTS = "，。：！？“”、\n"


def every(lang, seeds=SEEDS):
    for kind in KINDS:
        for seed in seeds:
            yield text(seed, lang, kind, *SPLITS[seed % 4])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_text_is_read_back_as_it_was_written(lang):
    for told in every(lang):
        report = check_text(told.text, lang, told.kind)
        assert report.ok and not report.rest, (told.text, report.problems, report.rest)
        assert all(report.roles.get(slot, entity) is entity for slot, entity in told.roles.items()), told.text


def test_the_same_seed_writes_the_same_text_and_seeds_differ():
    texts = [text(seed).text for seed in range(-1000, 1000)]
    assert texts == [text(seed).text for seed in range(-1000, 1000)]
    assert len(set(texts)) > 0.9 * len(texts)
    assert {text(seed).kind for seed in SEEDS} == set(KINDS)


def test_both_languages_say_the_same():
    for en, zh in zip(every("en"), every("zh")):
        assert _said(en) == _said(zh), (en.text, zh.text)
        assert (en.sentiment, en.moods, en.topic, en.intent, en.explicit) == (zh.sentiment, zh.moods, zh.topic, zh.intent, zh.explicit)


def _said(told):
    """Per sentence its template and the entities it speaks of; the languages may name one of them once more."""
    return [(id, {entity for _, entity in filled}) for *_, id, filled in told.sentences]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_sentences_and_spans_lie_where_they_say(lang):
    for told in every(lang):
        gaps = [told.text[a[1]:b[0]] for a, b in zip(told.sentences, told.sentences[1:])]
        assert set(gaps) <= {"", " "} and told.sentences[-1][1] == len(told.text)
        for start, end, type, entity in told.spans:
            assert told.text[start:end] in entity.forms[lang].values() and type == entity.type
        for start, end, person in told.pronouns:
            female = told.text[start:end].lower() in ("she", "her", "她", "她的")
            assert female == (person.category == "f"), told.text


def _known(lang):
    """Every surface that must lie in a span, wherever it stands."""
    entities = [entity for key in ("person", "organisation", "day", "food", "thing", "item", "place") for entity in kindwords.CHOICES[key]]
    entities += kindgrammar.TIMES.values()
    return {entity.forms[lang].get("bare", entity.forms[lang][""]) for entity in entities}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_entity_is_without_its_span(lang):
    known = _known(lang)
    names = re.compile(r"\b(?:%s)\b" % "|".join(sorted(map(re.escape, known), key=len, reverse=True)), re.IGNORECASE)
    for told in every(lang):
        covered = {at for start, end, *_ in told.spans for at in range(start, end)}
        found = [(m.start(), m.group()) for m in names.finditer(told.text)] if lang == "en" else _words(told.text, known)
        missed = [name for at, name in found if at not in covered]
        assert not missed, (missed, told.text)


def _words(chinese, known):
    at, found = 0, []
    for word in kinds.segment(chinese):
        if word in known:
            found.append((at, word))
        at += len(word)
    return found


def test_names_and_templates_keep_to_their_split():
    new = {id(entity) for table in (kindwords.PEOPLE, kindwords.PLACES, kindwords.FIRMS) for entity in table[True]}
    old = {id(entity) for table in (kindwords.PEOPLE, kindwords.PLACES, kindwords.FIRMS) for entity in table[False]}
    held = {kind: 0 for kind in KINDS}
    for kind in KINDS:
        for seed in SEEDS:
            for new_names, new_templates in SPLITS:
                told = text(seed, "en", kind, new_names, new_templates)
                named = {id(entity) for *_, type, entity in told.spans if type in ("person", "place", "organisation")}
                assert not named & (old if new_names else new)
                used = sum("held" in sentence[2] for sentence in told.sentences)
                assert new_templates or not used
                held[kind] += used
    assert all(count > 50 for count in held.values()), held
    assert len(kindwords.ORGANISATIONS) >= 20 and len(kindwords.NEW_ORGANISATIONS) >= 8
    assert not {entity.en for entity in kindwords.ORGANISATIONS} & {entity.en for entity in kindwords.NEW_ORGANISATIONS}


@pytest.mark.parametrize("lexicon", [kinds.LEXICON, kinds.LEXICON | words.LEXICON])
def test_chinese_texts_are_cut_completely_into_words(lexicon):
    for told in every("zh"):
        unknown = [word for word in kinds.segment(told.text, lexicon) if word not in lexicon and word not in POINTS and not word.isdigit()]
        assert not unknown, (unknown, told.text)
    assert kinds.segment("莉莉骑车。", lexicon)[1:3] == ["骑", "车"], "a word that is not in the lexicon falls into characters"


def test_reviews_have_a_cause_and_half_of_them_no_feeling_word():
    reviews = [text(seed, "en", "review") for seed in range(-1, -1001, -1)]
    assert all(review.causes and review.sentiment for review in reviews)
    assert .45 < sum(review.explicit for review in reviews) / 1000 < .55
    assert .45 < sum(review.sentiment == "good" for review in reviews) / 1000 < .55
    mixed = [review for review in reviews if ", but " in review.text]
    assert len(mixed) > 200
    for review in mixed:
        (start, end), = review.causes
        assert review.text[:start].endswith(", but ") and review.text[end] == "."


@pytest.mark.parametrize("lang", LANGUAGES)
def test_questions_get_the_reply_of_their_intent_and_requests_an_answer(lang):
    intents = set()
    for seed in SEEDS:
        question, request = text(seed, lang, "question"), text(seed, lang, "request")
        assert question.reply == kinds.FAQ[question.intent][lang]
        assert "\n" not in request.reply and request.text == request.text[slice(*request.prompt)] + "\n" + request.reply
        intents.add(question.intent)
    assert intents == set(kinds.FAQ) == set(kinds.INTENTS["question"])


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("what", ["name", "gender", "cause"])
def test_counterfactual_pairs_differ_in_one_thing(what, lang):
    for seed in SEEDS:
        one, other = counterfactual(seed, lang, what)
        assert all(check_text(t.text, lang, t.kind).ok for t in (one, other)) and one.text != other.text
        if what == "cause":
            assert {one.sentiment, other.sentiment} == {"good", "bad"} and one.spans[:1] == other.spans[:1]
            assert one.text[:one.sentences[0][1]] == other.text[:other.sentences[0][1]]
            continue
        changed = [slot for slot in one.roles if one.roles[slot] is not other.roles[slot]]
        assert len(changed) == 1
        before, after = one.roles[changed[0]], other.roles[changed[0]]
        assert (before.category == after.category) == (what == "name")
        swapped = one.text.replace(getattr(before, lang), getattr(after, lang))
        assert (swapped == other.text) == (what == "name"), (one.text, other.text)
    with pytest.raises(ValueError, match="must be"):
        counterfactual(-1, lang, "colour")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_rejected_answer_has_its_defect(lang):
    seen = set()
    for seed in range(-1, -401, -1):
        pair = preference(seed, lang)
        kind = "question" if pair.chosen in {reply[lang] for reply in kinds.FAQ.values()} else "request"
        joint = kinds.LABELS[lang] if kind == "question" else "\n"
        good, bad = (check_text(pair.prompt + joint + answer, lang, kind) for answer in (pair.chosen, pair.rejected))
        assert good.ok and not good.rest, pair
        assert not bad.ok or bad.rest, pair
        seen.add(pair.defect)
    assert seen == set(kinds.DEFECTS)


GOOD = {
    ("en", "diary"): "Today is Monday. It was sunny and warm. I went to the park with Tom. Tom gave me a red hat, so I was happy. Tom hurt his leg. He was sad. "
                     "I went to bed early.",
    ("en", "letter"): "Dear Tom,\nThis is Lily from Green Hill School. Thank you very much for the red hat. Yesterday I went to the park with Anna. "
                      "Anna won a game there. She was glad. I hope that you are well.\nYour friend,\nLily",
    ("en", "dialogue"): "Tom met Lily in the street on Monday.\nTom: Hello, Lily. I have a red hat. Do you want it?\nLily: Yes, please. I like it very much.\n"
                        "Tom: Here you are.\nLily: Thank you, Tom.\nTom: You are welcome.\nTom gave Lily the red hat, so she was happy.",
    ("en", "review"): "I bought a lamp from Sunrise Home Shop on Monday. It is cheaper in other shops. It broke after two days. I am disappointed.",
    ("en", "news"): "Green Hill School held a running race in the park on Monday. Tom won first prize. He was happy because he won. Lily came second. "
                    "Lily was sad because she did not win.",
    ("en", "request"): "Please say sorry to Tom because you lost his red hat.\nDear Tom, I am sorry that I lost your red hat.",
    ("en", "question"): "Customer: Hello. I ordered a lamp from Sunrise Home Shop on Monday. When will it come?\nShop: We send every order within two days.",
    ("zh", "diary"): "今天是星期一。阳光很好，天气很暖和。我和汤姆一起去了公园。汤姆送了我一顶红色的帽子，所以我很高兴。汤姆的腿受伤了。他很难过。我很早就睡觉了。",
    ("zh", "letter"): "亲爱的汤姆：\n我是青山小学的莉莉。非常感谢你送我的那顶红色的帽子。昨天我和安娜去了公园。安娜在那里赢了一场比赛。她很开心。祝你身体健康。\n"
                      "你的朋友\n莉莉",
    ("zh", "dialogue"): "星期一，汤姆在街上遇见了莉莉。\n汤姆：莉莉，你好。我有一顶红色的帽子，你想要吗？\n莉莉：想要，我非常喜欢。\n汤姆：给你。\n莉莉：谢谢你，汤姆。\n"
                        "汤姆：不客气。\n汤姆把那顶红色的帽子给了莉莉，所以她很高兴。",
    ("zh", "review"): "我星期一在日出家居店买了一盏台灯。别家更便宜。用了两天就坏了。我很失望。",
    ("zh", "news"): "星期一，青山小学在公园里举办了一场跑步比赛。汤姆得了第一名。他很高兴，因为他赢了。莉莉得了第二名。莉莉很难过，因为她没有赢。",
    ("zh", "request"): "请向汤姆道歉，因为你弄丢了他的红色帽子。\n亲爱的汤姆，对不起，我弄丢了你的红色帽子。",
    ("zh", "question"): "顾客：您好。我星期一在日出家居店买了一盏台灯。什么时候能到？\n店员：所有的货两天内寄出。",
}


@pytest.mark.parametrize("lang, kind", GOOD)
def test_the_texts_that_errors_are_planted_in_are_good(lang, kind):
    report = check_text(GOOD[lang, kind], lang, kind)
    assert report.ok and not report.rest, report.problems


@pytest.mark.parametrize("lang, kind, was, planted, reason", [
    ("en", "diary", "so I was happy", "so I was sad", "does not fit the cause"),
    ("en", "diary", "He was sad", "She was sad", "somebody or something else"),
    ("en", "diary", "He was sad", "I was sad", "does not belong here"),
    ("en", "diary", "Tom hurt", "Lily hurt", "somebody or something else"),
    ("en", "diary", "the park", "the library", "cannot be said"),
    ("en", "diary", "a red hat", "an red hat", "not a sentence"),
    ("en", "diary", "I went to bed early.", "I go to bed early.", "not a sentence"),
    ("en", "diary", " It was sunny and warm.", " It was sunny and warm. It rained all day.", "contradicts"),
    ("en", "diary", " I went to bed early.", "", "too early"),
    ("en", "letter", "\nLily", "\nAnna", "somebody or something else"),
    ("en", "letter", "She was glad", "He was glad", "somebody or something else"),
    ("en", "letter", "with Anna. Anna", "with Anna. Lily", "somebody or something else"),
    ("en", "letter", "Green Hill School", "Sunrise Bakery", "cannot be said"),
    ("en", "dialogue", "Thank you, Tom", "Thank you, Anna", "somebody or something else"),
    ("en", "dialogue", "the red hat", "the blue hat", "somebody or something else"),
    ("en", "dialogue", "Tom: Here you are.", "“Here you are,” said Tom.", "two ways"),
    ("en", "review", "am disappointed", "am pleased", "does not fit the cause"),
    ("en", "review", "a lamp", "a coat", "cannot be said"),
    ("en", "review", "Sunrise Home Shop", "Rainbow Toy Shop", "does not sell"),
    ("en", "review", "shops. It", "shops, but it", "agree"),
    ("en", "review", "It is cheaper in", "It is cheaper than in", "contradict"),
    ("en", "news", "He was happy because he", "He was happy because she", "somebody or something else"),
    ("en", "news", "in the park", "at the park", "somebody or something else"),
    ("en", "news", "Lily came", "Tom came", "one cannot be both"),
    ("en", "request", "your red hat", "your red kite", "somebody or something else"),
    ("en", "request", "Dear Tom", "Dear Lily", "somebody or something else"),
    ("en", "request", "his red", "her red", "somebody or something else"),
    ("en", "question", "We send every order within two days.", "You can send it back within ten days.", "does not fit the question"),
    ("en", "question", "When will it come", "When it will come", "not a sentence"),
    ("zh", "diary", "所以我很高兴", "所以我很难过", "does not fit the cause"),
    ("zh", "diary", "他很难过", "她很难过", "somebody or something else"),
    ("zh", "diary", "他很难过", "我很难过", "does not belong here"),
    ("zh", "diary", "公园", "图书馆", "cannot be said"),
    ("zh", "diary", "一顶红色", "一只红色", "not a sentence"),
    ("zh", "diary", "我和汤姆一起去了公园。", "我和汤姆一起去公园了。", "not a sentence"),
    ("zh", "diary", "我很早就睡觉了。", "", "too early"),
    ("zh", "letter", "\n莉莉", "\n安娜", "somebody or something else"),
    ("zh", "letter", "她很开心", "他很开心", "somebody or something else"),
    ("zh", "letter", "青山小学", "日出面包店", "cannot be said"),
    ("zh", "dialogue", "谢谢你，汤姆", "谢谢你，安娜", "somebody or something else"),
    ("zh", "dialogue", "那顶红色的帽子", "那顶蓝色的帽子", "somebody or something else"),
    ("zh", "dialogue", "所以她", "所以他", "somebody or something else"),
    ("zh", "dialogue", "汤姆：给你。", "汤姆说：“给你。”", "two ways"),
    ("zh", "review", "我很失望", "我很满意", "does not fit the cause"),
    ("zh", "review", "一盏台灯", "一件大衣", "cannot be said"),
    ("zh", "review", "一盏台灯", "一个台灯", "not a sentence"),
    ("zh", "review", "日出家居店", "彩虹玩具店", "does not sell"),
    ("zh", "review", "便宜。", "便宜，但是", "agree"),
    ("zh", "news", "因为她没有赢", "因为他没有赢", "somebody or something else"),
    ("zh", "news", "莉莉得了第二名", "汤姆得了第二名", "one cannot be both"),
    ("zh", "request", "你的红色帽子", "你的红色钢笔", "somebody or something else"),
    ("zh", "request", "弄丢了他的", "弄丢了她的", "somebody or something else"),
    ("zh", "question", "所有的货两天内寄出。", "十天内可以退货。", "does not fit the question"),
])
def test_a_planted_error_is_rejected_for_its_reason(lang, kind, was, planted, reason):
    good = GOOD[lang, kind]
    assert was in good
    problems = check_text(good.replace(was, planted, 1), lang, kind).problems
    assert any(reason in why for _, why in problems), problems


def test_an_unfinished_last_sentence_is_not_judged():
    report = check_text("Today is Monday. I went to", "en", "diary")
    assert report.ok and report.rest == "I went to"


def test_unknown_languages_and_kinds_are_named():
    with pytest.raises(ValueError, match="'fr'"):
        text(1, "fr")
    with pytest.raises(ValueError, match="'poem'"):
        text(1, kind="poem")
    with pytest.raises(ValueError, match="'poem'"):
        check_text("", "en", "poem")


def test_texts_are_written_fast_enough():
    """Ten thousand a second is the aim; a test may fail only at three times its budget."""
    text(0)
    start = time.process_time()
    for seed in range(2000):
        text(seed, LANGUAGES[seed % 2])
    assert 2000 / (time.process_time() - start) > 10_000 / 3
