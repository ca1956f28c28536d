"""story-gpt-instruct: its rows and batches, its measures (each seen to reject a wrong answer), adapters read as peft reads them, and the bundled one against its card."""
import json
import shutil
from pathlib import Path

import pytest
import torch

import llmtutor
from llmtutor import models, storyworld
from llmtutor.recipes import instruct
from llmtutor.storyworld import words

BUNDLED = Path(llmtutor.__file__).parent / "bundled" / "story-gpt-instruct"


@pytest.fixture(scope="module")
def base():
    return llmtutor.load(instruct.BASE)


# -- rows and batches --------------------------------------------------------------------------------------------------------------

def test_only_the_reply_is_learned_and_an_english_one_begins_with_a_space(base):
    for prompt, reply, read in (("Please answer: Where?\n", "Here.", " Here."), ("请回答：在哪里？\n", "在家。", "在家。"), ("", "Tom ran.", "Tom ran.")):
        ids, labels = instruct.row(base.tokenizer, prompt, reply)
        new = [*base.tokenizer(read)["input_ids"], base.tokenizer.eos_token_id]
        assert labels[-len(new):] == ids[-len(new):] == new and set(labels[:-len(new)]) <= {instruct.IGNORED} and len(ids) == len(labels)


def test_batches_depend_on_the_step_alone_and_hold_every_kind(base):
    one, two = (instruct.Requests(base.tokenizer, seed=0, size=8, group=4) for _ in range(2))
    one(0), one(50)
    assert all(torch.equal(a, b) for a, b in zip(one(6), two(6)))
    assert one(6)[0].shape != one(7)[0].shape or not torch.equal(one(6)[0], one(7)[0])
    assert not torch.equal(instruct.Requests(base.tokenizer, seed=1, size=8, group=4)(6)[0], one(6)[0][:, :1])
    texts = [base.tokenizer.decode(row) for step in range(12) for row in one(step)[0]]
    for start in (*(start for both in instruct.SAY.values() for start in both),):
        assert any(text.startswith(start) for text in texts), start
    assert any(not text.startswith(("Please", "请")) for text in texts), "stories are replayed"


def test_the_loss_counts_the_reply_only(base):
    """A slow loop over tokens agrees; with labels for the request, too, the loss is another one."""
    rows = [instruct.row(base.tokenizer, "Please answer: Tom liked pears. What does Tom like?\n", "Pears."), instruct.row(base.tokenizer, "请翻译：Tom ran.\n", "汤姆跑了。")]
    with torch.no_grad():
        loss, count = instruct.reply_loss(base.model, instruct.pad(rows, 0))
        slow = []
        for ids, labels in rows:
            logs = base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            slow += [-logs[t, label].item() for t, label in enumerate(labels[1:]) if label != instruct.IGNORED]
        everything, _ = instruct.reply_loss(base.model, instruct.pad([(ids, ids) for ids, _ in rows], 0))
    assert count == len(slow) and loss.item() == pytest.approx(sum(slow) / count, abs=1e-3)
    assert abs(everything.item() - loss.item()) > 0.1


# -- right or wrong, and the controls -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_right_replies_pass_and_wrong_ones_fail(lang):
    for task in instruct.TASKS:
        asked = instruct.exam(task, lang, True, 12)
        assert all(instruct.is_right(request, min(request.replies)) for request in asked)
        assert not any(instruct.is_right(request, wrong) for request in asked for wrong in ("", "Bananas are blue.", "香蕉是蓝色的。"))
    told, other = instruct.exam("answer", lang, True, 2)
    assert not instruct.is_right(told, min(other.replies))
    asked = instruct.exam("continue", lang, True, 12)
    swapped = [instruct.is_right(request, min(other.replies)) for request, other in zip(asked, asked[1:] + asked[:1])]
    assert sum(swapped) < 9, "what goes on another story mostly contradicts this one"


@pytest.mark.parametrize("lang", words.LANGUAGES)
def test_held_out_names_occur_in_no_request_of_the_training(base, lang):
    new = {getattr(person, lang) for person in words.NEW_PEOPLE} - {getattr(person, lang) for person in words.PEOPLE}
    texts = [request.prompt + min(request.replies) for task in instruct.TASKS for request in instruct.exam(task, lang, True, 20)]
    assert sum(any(name in text for name in new) for text in texts) > 40
    batches, seen = instruct.Requests(base.tokenizer, seed=0, size=16, group=8), []
    for step in range(16):
        seen += [text for text in base.tokenizer.batch_decode(batches(step)[0]) if text.startswith(("Please", "请"))]
    known = [name for name in new if len(name) > 1 and not any(name in getattr(person, lang) for person in words.PEOPLE)]
    assert len(seen) > 150 and known and not [name for name in known if any(name in text for text in seen)]


def test_the_control_of_answers_is_one_over_the_people_told_of():
    for lang in words.LANGUAGES:
        asked = instruct.exam("answer", lang, False, 40)
        people = [len([1 for _, _, event in storyworld.facts(-1 - k, lang).sentences if event.kind.startswith("ask_")]) for k in range(40)]
        assert [request.told for request in asked] == people and set(people) <= {2, 3, 4, 5}
        assert instruct.control(asked).mean == pytest.approx(sum(1 / n for n in people) / 40)
    assert instruct.control(instruct.exam("translate", "en", False, 3)) is None
    assert instruct.control(instruct.exam("continue", "zh", False, 30)).mean > 0.5
    wrong = [request._replace(lang="en") for request in instruct.exam("continue", "zh", False, 30)]
    assert instruct.control(wrong).mean == 0, "an English sentence does not continue a Chinese story"


# -- adapters are read as peft reads them ------------------------------------------------------------------------------------------------

@pytest.fixture()
def saved(base, tmp_path):
    """An adapter with random numbers, saved by `instruct.save`, and what peft's own model says."""
    torch.manual_seed(0)
    model = instruct.adapter(llmtutor.load(instruct.BASE).model, rank=4).eval()
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = (torch.randn_like(p) * 0.1).half().float()
    instruct.save(model, tmp_path / "mine")
    ids = torch.tensor([base.tokenizer("Tom had a red ball.")["input_ids"]])
    with torch.no_grad():
        return tmp_path / "mine", ids, model(input_ids=ids).logits


def _change(folder, **settings):
    file = folder / models.ADAPTER
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def test_a_loaded_adapter_gives_what_peft_gives(saved, base):
    """Ours equals the live model of peft, and peft reads the same files alike; another strength would show."""
    folder, ids, wanted = saved
    lm = llmtutor.load(folder)
    with torch.no_grad():
        assert (lm.model(ids).logits - wanted).abs().max() < 1e-3 < (base.model(ids).logits - wanted).abs().max()
    assert lm.info.name == str(folder) and lm.info.kind == "folder" and lm.info.n_params == base.info.n_params
    from peft import PeftModel
    theirs = PeftModel.from_pretrained(llmtutor.load(instruct.BASE).model, folder).eval()
    with torch.no_grad():
        assert (theirs(input_ids=ids).logits - wanted).abs().max() < 1e-3
    _change(folder, lora_alpha=4)
    with torch.no_grad():
        assert (llmtutor.load(folder).model(ids).logits - wanted).abs().max() > 0.1


def test_loading_an_adapter_leaves_its_base_alone(saved, base):
    folder, ids, _ = saved
    with torch.no_grad():
        before = base.model(ids).logits
        llmtutor.load(folder)
        assert torch.equal(llmtutor.load(instruct.BASE).model(ids).logits, before)


def test_adapters_that_cannot_be_read_say_why(saved, tmp_path):
    folder, *_ = saved

    def spoilt(name, **settings):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        _change(copy, **settings)
        return copy

    with pytest.raises(models.LoadError, match="use_dora.*merge_and_unload"):
        llmtutor.load(spoilt("dora", use_dora=True))
    with pytest.raises(models.LoadError, match="does not say which model"):
        llmtutor.load(spoilt("nothing", base_model_name_or_path=None))
    with pytest.raises(models.LoadError, match="does not fit 'story-translator'"):
        llmtutor.load(spoilt("other", base_model_name_or_path="story-translator"))
    lost = spoilt("lost")
    (lost / "adapter_model.safetensors").unlink()
    with pytest.raises(models.LoadError, match="no adapter_model.safetensors"):
        llmtutor.load(lost)
    (lost / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(models.LoadError, match="run any program"):
        llmtutor.load(lost)
    half = spoilt("half")
    from safetensors.torch import load_file, save_file
    parts = load_file(half / "adapter_model.safetensors")
    save_file({key: value for key, value in parts.items() if "lora_B" not in key or ".0." not in key}, half / "adapter_model.safetensors")
    with pytest.raises(models.LoadError, match="one A and one B"):
        llmtutor.load(half)


# -- the recipe and the bundled adapter ---------------------------------------------------------------------------------------------------

def test_the_recipe_writes_adapter_and_card_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(instruct, "COUNT", 2)
    monkeypatch.setattr(instruct, "RANK", 2)
    monkeypatch.setattr(instruct.Requests, "__init__", lambda self, tokenizer, seed: self.__dict__.update(
        tokenizer=tokenizer, seed=seed, size=4, group=2, _number=None, _batches=[]))
    out = tmp_path / "story-gpt-instruct"
    instruct.story_gpt_instruct(out, steps=2, fresh=True)
    card, readme = json.loads((out / "card.json").read_text(encoding="utf-8")), (out / "README.md").read_text(encoding="utf-8")
    assert {f"{task} {lang} {names}" for task in instruct.TASKS for lang in words.LANGUAGES for names in ("seen", "held-out")} < set(card["measured"])
    assert set(card["measured"]["translate en seen"]) == {"model", "base", "translator"} and "one of the told values picked at random" in readme and "随机挑一个" in readme
    settings = (out / models.ADAPTER).read_text(encoding="utf-8")
    assert json.loads(settings)["base_model_name_or_path"] == "story-gpt" and str(tmp_path) not in settings and "bundled" not in settings
    before = (out / "adapter_model.safetensors").read_bytes()
    instruct.story_gpt_instruct(out, steps=2)                   # goes on from the finished checkpoint: nothing changes
    assert (out / "adapter_model.safetensors").read_bytes() == before


def test_the_bundled_adapter_keeps_what_its_card_says(base):
    """Re-measure a small part of the card. The base alone must fail the same limits."""
    card = json.loads((BUNDLED / "card.json").read_text(encoding="utf-8"))["measured"]
    lm = llmtutor.load("story-gpt-instruct")
    assert sum(file.stat().st_size for file in BUNDLED.parent.rglob("*") if file.is_file()) < 12e6
    for task in ("answer", "translate"):
        for lang in words.LANGUAGES:
            asked = instruct.exam(task, lang, False, 30)
            found = instruct.score(instruct.write(lm.model, lm.tokenizer, asked), asked).mean
            said = card[f"{task} {lang} seen"]
            assert found > said["model"]["mean"] - 0.15
            assert found > said.get("control", {"high": 0.0})["high"] + 0.2 and said["model"]["low"] > said.get("control", {"high": 0.0})["high"]
            assert instruct.score(instruct.write(base.model, base.tokenizer, asked), asked).mean < 0.1
    assert instruct.story_loss(lm.model, lm.tokenizer, 20) < instruct.story_loss(base.model, base.tokenizer, 20) + 0.1
