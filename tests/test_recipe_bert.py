"""story-bert: spans stay right when texts are changed, masks hide what they should, tasks tell a good model from a bad one."""
import json
import random
from pathlib import Path

import pytest
import torch

import llmtutor
from llmtutor import storyworld, training
from llmtutor.recipes import bert, tasks, texts
from llmtutor.storyworld import words

BUNDLED = Path(llmtutor.__file__).parent / "bundled" / "story-bert"


@pytest.fixture(scope="module")
def tokenizer():
    return bert.bert_tokenizer(stories=300)


NEW_BERT = bert.new_bert


def small(tokenizer):
    torch.manual_seed(0)
    return NEW_BERT(tokenizer, layers=1, heads=2, width=32, inner=48)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "story-bert"
    bert.save(small(tokenizer), tokenizer, place)
    return place


# -- texts ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lang", words.LANGUAGES)
@pytest.mark.parametrize("source", texts.SOURCES)
def test_every_source_gives_texts_whose_spans_fit(source, lang):
    for seed in range(-20, 0):
        text = texts.SOURCES[source][0](seed, lang)
        assert text.lang == lang and text.text
        assert all(text.text[start:end] == getattr(who, lang) for start, end, who in text.names)
        units = set(texts.units(text))
        assert all(span[:2] in units for span in text.names)
        assert all(0 <= start < end <= len(text.text) for start, end, *_ in text.entities + text.sure)
    assert sum(entry[1] for entry in texts.SOURCES.values()) == pytest.approx(1) == sum(entry[2] for entry in texts.SOURCES.values())


def test_entities_have_no_article_and_no_colour():
    for lang in words.LANGUAGES:
        for seed in range(-30, 0):
            text = texts.from_story(storyworld.story(seed, lang))
            for start, end, kind in text.entities:
                said = text.text[start:end].lower()
                known = {"person": words.PEOPLE, "thing": words.NOUNS, "place": words.PLACES, "container": words.CONTAINERS, "food": words.FOODS}[kind]
                assert said in {getattr(word, lang).lower() for word in known}, (said, kind)


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_new_names_move_every_span(lang):
    rng = random.Random(0)
    for seed in range(-20, 0):
        old = texts.from_story(storyworld.story(seed, lang))
        new = texts.disguise(old, rng)
        assert new.text != old.text and len(new.names) == len(old.names)
        for before, after in ((old.entities, new.entities), (old.sentences, new.sentences), (old.sure, new.sure)):
            for (a, b, *_), (c, d, *_) in zip(before, after, strict=True):
                if not any(a < stop and start < b for start, stop, _ in old.names):
                    assert old.text[a:b] == new.text[c:d]
        said = {}
        for start, end, who in new.names:
            assert said.setdefault(who, new.text[start:end]) == new.text[start:end]
        assert not {person.en for person in words.PEOPLE} & set(said.values()) or lang == "zh"
    longer = texts.rename(texts.Text("Tom saw Tom. Max ran.", "en", [(0, 3, "t"), (8, 11, "t"), (13, 16, "m")], sure=[(17, 20)]), {"t": "Alexander"})
    assert longer.text == "Alexander saw Alexander. Max ran." and longer.names[2] == (25, 28, "m") and longer.sure == [(29, 32)]


def test_an_excerpt_keeps_its_spans():
    text = texts.from_story(storyworld.story(-4))
    for first in range(len(text.sentences)):
        part = texts.excerpt(text, first, 2)
        assert part.text in text.text and not part.text[0].isspace()
        assert all(part.text[start:end] == who.en for start, end, who in part.names)
        assert len(part.sentences) == min(2, len(text.sentences) - first)


# -- tokenizer and masks ---------------------------------------------------------------------------------------------------------

def test_the_tokenizer_survives_saving_and_reads_pairs(folder, tokenizer):
    from transformers import AutoTokenizer
    loaded = AutoTokenizer.from_pretrained(folder)
    for told in (storyworld.story(-3).text, storyworld.story(-3, "zh").text):
        assert loaded(told)["input_ids"] == tokenizer(told)["input_ids"]
        assert loaded.decode(loaded(told)["input_ids"], skip_special_tokens=True) == told
    pair = loaded("Tom had a red ball.", "Who has the ball?", return_offsets_mapping=True)
    said = loaded.convert_ids_to_tokens(pair["input_ids"])
    assert said[0] == "<s>" and said[-1] == "</s>" and said.count("</s>") == 3
    assert pair.sequence_ids().count(1) == len(loaded("Who has the ball?")["input_ids"]) - 2 and pair["offset_mapping"][1] == (0, 3)
    hidden = loaded("Tom had a <mask> ball.")["input_ids"]
    whole = loaded("Tom had a red ball.")["input_ids"]
    assert [token for token in hidden if token != loaded.mask_token_id] == [a for a, b in zip(whole, hidden) if b != loaded.mask_token_id]


def test_a_pair_is_encoded_as_the_tokenizer_would(tokenizer):
    text = next(t for t in (texts.from_story(storyworld.facts(seed)) for seed in range(-9, 0)) if t.text.count("\n") == 2)
    story, questions = text.text.split("\n", 1)
    assert texts.encode(text, tokenizer, pair=True)[0] == tokenizer(story, questions)["input_ids"]
    assert texts.encode(text, tokenizer)[0] == tokenizer(text.text)["input_ids"]


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_encode_finds_every_word(tokenizer, lang):
    for change in (lambda text: text, lambda text: texts.disguise(text, random.Random(1))):
        text = change(texts.from_story(storyworld.story(-6, lang)))
        ids, found = texts.encode(text, tokenizer)
        every, spans = texts.units(text), [span for _, _, span in found]
        assert set(spans) <= set(every) and spans == sorted(spans) and len(spans) >= 0.97 * len(every)
        for positions, _, (start, end) in found:
            assert tokenizer.decode([ids[i] for i in positions]).strip() == text.text[start:end]


def test_batches_depend_on_the_step_alone_and_hide_what_they_say(tokenizer):
    one, two = (bert.Batches(tokenizer, seed=0, steps=100, size=4, group=3) for _ in range(2))
    one(0), one(50)
    for a, b in zip(one(7), two(7)):
        assert (a is None and b is None) or torch.equal(a, b)
    assert not torch.equal(one(7)[3], one(8)[3])
    hidden = kept = total = 0
    for step in range(60):
        ids, seen, where, target = one(step)
        assert not (where & (ids == tokenizer.pad_token_id)).any() and not (target == tokenizer.pad_token_id).any()
        hidden += int((ids[where] == tokenizer.mask_token_id).sum())
        kept += int((ids[where] == target).sum())
        total += ids.numel() if seen is None else int(seen.sum())
    assert 0.10 < (hidden + kept) / total < 0.22 and 0.05 < kept / (hidden + kept) < 0.15


def test_in_some_documents_only_a_few_decided_words_are_hidden(tokenizer):
    text = texts.from_story(storyworld.facts(-3))
    ids, found = texts.encode(text, tokenizer)
    decided = {position for positions, weight, _ in found if weight > 1 for position in positions}
    for few, low, high in ((1.0, 1, 3), (0.0, 0, len(found))):
        batches, rng = bert.Batches(tokenizer, 0, 10, rates=(0.3, 0.3), few=few), random.Random(0)
        draws = [batches._chosen(rng, len(ids), found) for _ in range(200)]
        assert all(low <= len(words) <= high for words in draws)
        assert all({position for word in words for position in word} <= decided for words in draws) == (few == 1)


def test_a_word_for_a_feeling_is_decided_by_what_happened():
    from llmtutor.storyworld import kinds
    for lang, said in (("en", {"happy", "pleased", "unhappy", "disappointed"}), ("zh", {"高兴", "满意", "不高兴", "失望"})):
        reviews = [kinds.text(seed, lang, kind="review") for seed in range(-40, 0)]
        found = [[text.text[a:b] for a, b in text.sure] for text in map(texts.from_kind, reviews)]
        assert all(bool(set(words) & said) == review.explicit for words, review in zip(found, reviews))
        assert set().union(*found) >= said


def test_a_name_is_one_piece_with_and_without_a_space_before_it(tokenizer):
    plain = tokenizer.get_vocab()
    for person in words.PEOPLE:
        for sentence in (f"{person.en} smiled.", f"Then {person.en} smiled."):
            if f"Ġ{person.en}" in plain:
                assert person.en in [piece.removeprefix("Ġ") for piece in tokenizer.tokenize(sentence)], sentence
    from llmtutor.recipes.tokenizer import story_tokenizer
    other = story_tokenizer(stories=300)
    told = storyworld.story(-3).text
    split = [piece for piece in tokenizer.tokenize(told) if piece.startswith("Ġ")]
    assert split == [piece for piece in other.tokenize(told) if piece.startswith("Ġ")]         # nothing else is cut otherwise


def test_decided_words_are_hidden_more_often(tokenizer):
    text = texts.from_story(storyworld.facts(-3))
    ids, found = texts.encode(text, tokenizer, weight=4.0)
    batches, rng = bert.Batches(tokenizer, 0, 10, few=0), random.Random(0)
    draws = [batches._masked(rng, ids, found)[1] for _ in range(400)]
    rate = {True: [], False: []}
    for positions, weight, _ in found:
        rate[weight > 1] += [labels[positions[0]] != bert.UNKNOWN for labels in draws]
    assert sum(rate[True]) / len(rate[True]) > 2.5 * sum(rate[False]) / len(rate[False])


# -- training ----------------------------------------------------------------------------------------------------------------------

def test_the_loss_falls_and_a_stopped_run_goes_on(tokenizer, tmp_path):
    def run(steps, **options):
        model = small(tokenizer)
        training.fit(model, bert.Batches(tokenizer, 0, 60, size=4, group=3), bert.masked_loss, bert.optimizers(model, lr=6e-3), steps, progress=False, **options)
        return model

    class Stop(Exception):
        pass

    def stop(step, model):
        raise Stop

    whole = run(60)
    with pytest.raises(Stop):
        run(60, checkpoint=tmp_path / "run.pt", every=0, watch=stop, watch_every=7)
    resumed = run(60, checkpoint=tmp_path / "run.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    batch = bert.Batches(tokenizer, 1, 60, size=4, group=3)(0)
    assert bert.masked_loss(whole, batch)[0] < bert.masked_loss(small(tokenizer), batch)[0] - 0.5


def test_the_loss_is_that_of_the_whole_model(tokenizer):
    model, (ids, seen, where, target) = small(tokenizer).eval(), bert.Batches(tokenizer, 0, 60, size=4, group=3)(1)
    labels = torch.full_like(ids, bert.UNKNOWN)
    labels[where] = target
    mine, theirs = bert.masked_loss(model, (ids, seen, where, target))[0], model(ids, attention_mask=seen, labels=labels).loss
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_muon_gets_the_matrices_of_the_layers(tokenizer):
    model = small(tokenizer)
    muon, adam = bert.optimizers(model)
    held = [id(p) for opt in (muon, adam) for group in opt.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(p) for name, p in model.named_parameters() if "layers" in name and p.ndim == 2}


# -- measurements --------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def counts():
    return {lang: tasks.Counts([tell(seed, lang) for tell, _, _ in texts.SOURCES.values() for seed in range(150)]) for lang in words.LANGUAGES}


class Cheat(torch.nn.Module):
    """A "model" that knows the answers: it finds the text whose ids fit around the mask."""

    def __init__(self, tokenizer, read):
        super().__init__()
        self.tokenizer, self.rows = tokenizer, [texts.encode(text, tokenizer)[0] for text in read]

    def forward(self, ids, attention_mask=None):
        mask, out = self.tokenizer.mask_token_id, torch.zeros(*ids.shape, len(self.tokenizer))
        for row, line in enumerate(ids.tolist()):
            right = next(r for r in self.rows if all(a == b or a == mask for a, b in zip(line, r)) and len(r) <= len(line))
            out[row, range(len(right)), right] = 1
        return type("Out", (), {"logits": out})


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_measure_ranks_a_perfect_an_untrained_and_an_oracle_reader(tokenizer, counts, lang):
    stories = [storyworld.story(seed, lang) for seed in range(-12, 0)]
    perfect = tasks.measure(Cheat(tokenizer, [texts.from_story(told) for told in stories]), tokenizer, stories, counts[lang])
    assert perfect["words"].mean == perfect["names"].mean == perfect["sure"].mean == perfect["names_decided"].mean == 1
    assert 0.6 < perfect["oracle"].mean < 1 and perfect["oracle"].mean > perfect["neighbours"].mean > perfect["frequent"].mean
    assert perfect["names_oracle"].mean > perfect["names_neighbours"].mean + 0.2
    bad = tasks.measure(small(tokenizer), tokenizer, stories, counts[lang], check=False)
    assert bad["words"].mean < 0.1 and bad["words"].low <= bad["words"].mean <= bad["words"].high


def test_a_name_is_decided_when_nobody_else_fits():
    told = "Tom liked apples. Lily liked pears. Lily ate some pears. Tom went home."
    people = {person.en: person for person in words.PEOPLE}
    names = [(match, match + len(name), people[name]) for name, match in (("Tom", 0), ("Lily", 18), ("Lily", 36), ("Tom", 57))]
    text = texts.Text(told, "en", names, sure=texts.again(names))
    assert storyworld.check(told).ok
    at = {blank.start: blank for blank in tasks.blanks(text, random.Random(0), 99)}
    assert at[36].name and tasks.decided(text, at[36]) and not at[18].name
    assert at[57].name and not tasks.decided(text, at[57])


def test_share_gives_an_interval_over_texts():
    found = tasks.share([[1, 0]] * 50)
    assert found.mean == 0.5 == found.low == found.high                  # every text alike: no spread between texts
    wide = tasks.share([[1, 1]] * 25 + [[0, 0]] * 25)
    assert wide.mean == 0.5 and 0.3 < wide.low < 0.45 < 0.55 < wide.high < 0.7
    assert tasks.share([[], []]) is None


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_tags_can_be_read_back(tokenizer, lang):
    for world in tasks.WORLDS:
        for names in ("seen", "held-out", "made-up"):
            for text in tasks.sentences(lang, 20, -900, world, names):
                classes = ["container", "food", "organisation", "person", "place", "thing", "time"]
                row, offsets = tasks._tags(text, tokenizer, classes)
                assert tasks._spans([max(label, 0) for label in row["labels"]], offsets, classes) == set(text.entities)
                assert tasks._spans([0] * len(offsets), offsets, classes) == set()


def test_held_out_sentences_name_nobody_of_the_labelled_ones():
    for lang in words.LANGUAGES:
        known = {getattr(person, lang) for person in words.PEOPLE}
        said = {names: {text.text[a:b] for text in tasks.sentences(lang, 60, -900, names=names) for a, b, kind in text.entities if kind == "person"}
                for names in ("seen", "held-out", "made-up")}
        assert said["seen"] <= known and not said["held-out"] & known and len(said["made-up"] & known) < 3


def test_ner_learns_from_labels(folder):
    found = tasks.ner(folder, "en", labels=60, seeds=(0,), steps=150, names="seen")
    assert found["pretrained"].mean > 0.6                                 # this "pretrained" model is untrained; the labels do it
    none = tasks.ner(folder, "en", labels=60, seeds=(0,), steps=1, names="seen")
    assert none["pretrained"].mean < 0.3
    with pytest.raises(ValueError, match="held-out"):
        tasks.ner(folder, "en", names="new")


def test_classify_learns_from_labels_and_not_from_noise(folder):
    data = [(storyworld.story(seed, lang).text[:60], lang) for seed in range(60) for lang in words.LANGUAGES]
    rng = random.Random(0)
    found = tasks.classify(folder, data[:80], data[80:], seeds=(0,), labels=80, steps=60)
    assert found["pretrained"].mean > 0.95 and found["frequent"].mean == 0.5
    noise = [(text, rng.choice("ab")) for text, _ in data]
    assert tasks.classify(folder, noise[:80], noise[80:], seeds=(0,), labels=80, steps=60)["pretrained"].mean < 0.8
    assert {tasks.review(seed, "en")[1] for seed in range(-40, 0) if tasks.review(seed, "en")} == {"good", "bad"}
    with pytest.raises(ValueError, match="need 400 texts; got 80"):
        tasks.classify(folder, data[:80], data[80:], seeds=(0, 1), labels=200)


def test_the_folder_loads_under_every_head(folder):
    lm = llmtutor.load(folder)
    assert type(lm.model).__name__ == "ModernBertForMaskedLM" and lm.model.config._attn_implementation == "sdpa" and lm.info.context == 256
    ids = lm.tokenizer("Tom had a ball.", "Who has it?", return_tensors="pt")
    for kind in ("TokenClassification", "SequenceClassification", "QuestionAnswering"):
        model = tasks.task_model(kind, folder, 3)
        assert torch.equal(model.model.embeddings.tok_embeddings.weight, lm.model.model.embeddings.tok_embeddings.weight)
        assert not torch.equal(tasks.task_model(kind, folder, 3, pretrained=False).model.embeddings.tok_embeddings.weight,
                               lm.model.model.embeddings.tok_embeddings.weight)
        assert model(**ids) is not None


def test_the_recipe_writes_a_card_and_goes_on(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(bert, "bert_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(bert, "new_bert", small)
    monkeypatch.setattr(bert, "_measured", lambda out, model, tokenizer, lang, stories, seeds: {"words": tasks.Share(0.5, 0.4, 0.6)})
    out = tmp_path / "story-bert"
    bert.story_bert(out, steps=6)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "0.500 [0.400, 0.600]" in card and "6 steps" in card and (out / "card.json").exists()
    before = (out / "model.safetensors").read_bytes()
    bert.story_bert(out, steps=6)                                         # everything is in the checkpoint: nothing is trained again
    assert (out / "model.safetensors").read_bytes() == before
    assert llmtutor.load(out).model.dtype == torch.float32


# -- the bundled model ------------------------------------------------------------------------------------------------------------------

def test_the_bundled_model_keeps_what_its_card_says():
    """Re-measure a small part of the card. A model with shuffled word vectors must fail the same limits."""
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))
    lm = llmtutor.load("story-bert")
    for lang in words.LANGUAGES:
        said = card["measured"][lang]
        counts = tasks.Counts([texts.from_story(storyworld.story(seed, lang)) for seed in range(300)])
        fresh = [storyworld.story(-seed, lang) for seed in range(2001, 2041)]
        found = tasks.measure(lm.model, lm.tokenizer, fresh, counts, check=False)
        assert found["words"].mean == pytest.approx(said["words"][0], abs=0.06) and found["words"].mean > found["neighbours"].mean + 0.1
        assert said["ner_story_held-out_200_pretrained"][1] > said["ner_story_held-out_200_scratch"][2]
    with torch.no_grad():
        lm.model.model.embeddings.tok_embeddings.weight.copy_(lm.model.model.embeddings.tok_embeddings.weight.roll(1, 0))
    assert tasks.measure(lm.model, lm.tokenizer, fresh, counts, check=False)["words"].mean < 0.3
