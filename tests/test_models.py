"""Loading models: from the package, from a folder, from the Hub (a loopback one), and everything that can go wrong."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import time

import numpy
import pytest
import torch
import transformers
from hub import COMMIT, serve
from tokenizers import ByteLevelBPETokenizer

from llmtutor import models

SENTENCES = ["Lily gave Tom the red ball because he asked for it.", "今天天气真好，莉莉把红色的球给了汤姆。"] * 5


def save_tiny(folder, **changes):
    """Save a tiny random GPT-2 with a byte-level tokenizer that knows English and Chinese."""
    torch.manual_seed(0)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(SENTENCES, vocab_size=320, special_tokens=["<|endoftext|>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, eos_token="<|endoftext|>", model_max_length=24)
    sizes = dict(vocab_size=320, n_embd=24, n_layer=2, n_head=3, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(sizes | changes)))
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny model that a test may break."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def in_fresh_python(code: str, cache, endpoint: str | None, through=list, **environment):
    """Run code in a new interpreter, because huggingface_hub reads its settings once, when it is imported."""
    setting = {"HF_HOME": str(cache), "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"} | ({"HF_ENDPOINT": endpoint} if endpoint else {})
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    prelude = ("import time, llmtutor as lt\nfrom llmtutor import models\n"
               "def load(name, **options):\n"
               "    start = time.perf_counter()\n"
               "    try: print('loaded', lt.load(name, **options))\n"
               "    except models.LoadError as error: print('refused', error)\n"
               "    print('seconds', time.perf_counter() - start)\n")
    done = subprocess.run(through([sys.executable, "-c", prelude + code]), env={**clean, **setting, **environment},
                          capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_loads_ready_to_use(tiny, capfd):
    lm = models.load(tiny)
    assert lm.info.kind == "folder"
    assert type(lm.model) is transformers.GPT2LMHeadModel
    assert not lm.model.training
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}  # stored as float16
    assert lm.tokenizer.decode(lm.tokenizer("今天 Lily")["input_ids"]) == "今天 Lily"
    assert "Loading weights" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("shown", [False, True])
def test_the_progress_bar_setting_is_put_back(tiny, shown):
    from transformers.utils import logging

    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        models.load(tiny)
        assert logging.is_progress_bar_enabled() is shown
        with pytest.raises(models.LoadError):
            models.load("no/such/folder/here")
        assert logging.is_progress_bar_enabled() is shown
    finally:
        logging.enable_progress_bar()


def test_info_tells_the_sizes(tiny):
    info = models.load(str(tiny)).info
    assert (info.n_layers, info.n_heads, info.d_model, info.d_head, info.d_vocab) == (2, 3, 24, 8, 320)
    assert info.context == 24  # the tokenizer allows less than the model's 32
    assert info.architecture == "GPT2LMHeadModel"
    # embeddings + positions + 2 blocks of (2 norms, qkv, projection, two feed-forward maps) + last norm; the head is tied
    block = 2 * 48 + (24 * 72 + 72) + (24 * 24 + 24) + (24 * 96 + 96) + (96 * 24 + 24)
    assert info.n_params == 320 * 24 + 32 * 24 + 2 * block + 48


def test_printed_forms_hold_no_machine_path(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    lm = models.load("tiny")
    assert str(tiny.parent) not in repr(lm) + repr(lm.info)
    assert repr(lm) == f"LanguageModel('tiny': GPT2LMHeadModel, 2 layers x 3 heads, {lm.info.n_params:,} parameters)"


@pytest.mark.parametrize("name", ["", "  ", None, 3, b"gpt2"])
def test_a_name_that_is_none(name):
    with pytest.raises(models.LoadError, match="needs a name.*Bundled:"):
        models.load(name)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(models.LoadError, match="no folder"):
        models.load(tmp_path / "nowhere")
    with pytest.raises(models.LoadError, match="no folder"):
        models.load("./nowhere")


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(models.LoadError, match="no config.json.*save_pretrained"):
        models.load(tmp_path)


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(models.LoadError, match="no weights.*save_pretrained"):
        models.load(copy)


class Trap:
    """An object whose pickle makes a file when it is opened."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
def test_pickled_weights_are_refused_and_never_opened(copy, file):
    (copy / "model.safetensors").unlink()
    proof = copy / "was-opened"
    (copy / file).write_bytes(pickle.dumps(Trap(proof)))
    with pytest.raises(models.LoadError, match="can run any program.*safetensors"):
        models.load(copy)
    assert not proof.exists()


def test_a_folder_without_a_tokenizer(copy):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (copy / file).unlink()
    with pytest.raises(models.LoadError, match="no tokenizer"):
        models.load(copy)


def test_weights_in_parts_of_which_one_is_missing(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(models.LoadError, match="lacks 1 of its 2 weight files, such as 'model-00002"):
        models.load(copy)


def test_damaged_weights(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(models.LoadError, match="could not be read.*damaged"):
        models.load(copy)


def test_a_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(models.LoadError, match="not valid JSON"):
        models.load(copy)


@pytest.mark.parametrize("architectures, message", [
    ([], "names no architecture"), (["MyOwnModel"], "never run here"), (["pipeline"], "never run here"),
    (["AutoTokenizer"], "never run here")])
def test_architectures_that_cannot_be_taken(copy, architectures, message):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = architectures
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(models.LoadError, match=message):
        models.load(copy)


def test_code_that_a_model_brings_is_never_run(copy):
    proof = copy / "was-run"
    (copy / "evil.py").write_text(f"open({str(proof)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"auto_map": {"AutoModel": "evil.Model"}, "architectures": ["Evil"]}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(models.LoadError, match="never run here"):
        models.load(copy)
    assert not proof.exists()


def test_a_revision_is_for_the_hub(tiny):
    with pytest.raises(models.LoadError, match="is for models of the Hub"):
        models.load(tiny, revision="main")


def test_bundled_names_win_over_folders_and_need_no_network(tiny, tmp_path, monkeypatch):
    """The same name must mean the same model on every machine."""
    monkeypatch.setattr(models, "BUNDLED", tiny.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    monkeypatch.setattr(models, "_ask_hub", lambda *_: pytest.fail("a bundled model must not ask the Hub"))
    assert models.bundled() == ["tiny"]
    assert models.load("tiny").info.kind == "bundled"


def test_every_bundled_model_loads():
    assert models.bundled(), "llmtutor/bundled holds no model"
    for name in models.bundled():
        lm = models.load(name)
        assert lm.info.kind == "bundled" and lm.info.name == name
        assert lm.info.d_vocab >= len(lm.tokenizer)


def test_a_mistyped_name_with_the_network_cut(tmp_path):
    out = in_fresh_python("load('story-gtp')", tmp_path, f"http://127.0.0.1:{closed_port()}")
    assert "refused" in out and "cannot be reached" in out
    assert "Bundled: " + (", ".join(models.bundled()) or "none") in out and "Nothing was downloaded before" in out
    assert float(out.split()[-1]) < 3 * 5  # the budget is 5 s


def test_the_nearest_name_is_suggested(tiny, monkeypatch):
    monkeypatch.setattr(models, "BUNDLED", tiny.parent)
    monkeypatch.setattr(models, "cached", list)
    assert models._suggest("Tinny").startswith("Did you mean 'tiny'?")
    assert "Did you mean" not in models._suggest("bert-base-chinese")


def test_a_hub_that_takes_the_call_and_never_answers(tmp_path):
    """As behind a broken proxy: the time limit decides, not the closed door."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        out = in_fresh_python("load('team/tiny')", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "refused" in out and "cannot be reached" in out
    assert models.HUB_SECONDS - 1 < float(out.split()[-1]) < 3 * 5  # the budget is 5 s


def test_looking_up_an_address_that_hangs(monkeypatch):
    """Time limits of the HTTP library do not hold for that, so the wait has an end of its own."""
    from huggingface_hub import HfApi

    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: time.sleep(30))
    monkeypatch.setattr(models, "HUB_SECONDS", 0.2)
    start = time.perf_counter()
    with pytest.raises(models.LoadError, match="no answer within 0.2 s"):
        models._ask_hub("team/tiny", None)
    assert time.perf_counter() - start < 5


def test_the_offline_switch_is_honoured(tmp_path, tiny):
    with serve({"team/tiny": tiny}) as hub:
        out = in_fresh_python("load('team/tiny')", tmp_path, hub.url, HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE forbids" in out
        assert hub.requests == []


def test_download_then_load_offline(tmp_path, tiny, monkeypatch):
    from huggingface_hub import constants

    with serve({"team/tiny": tiny}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        assert models.cached() == []
        lm = models.load("team/tiny")
        assert (lm.info.kind, lm.info.revision, lm.info.architecture) == ("hub", COMMIT, "GPT2LMHeadModel")
        assert models.cached() == ["team/tiny"]
        before = len(hub.requests)
        models.load("team/tiny")
        models.load("team/tiny", revision=COMMIT)
        assert len(hub.requests) == before, "what is in the cache must come from there"
    out = in_fresh_python("load('team/tiny'); load('team/tiny'); load('team/tny')", tmp_path, hub.url)  # the hub is closed now
    assert "loaded LanguageModel" in out
    assert "Did you mean 'team/tiny'?" in out and "Downloaded before: team/tiny." in out
    seconds = [float(line.split()[1]) for line in out.splitlines() if line.startswith("seconds")]
    assert seconds[0] < 3 * 10, "the first one also imports torch and transformers"
    assert seconds[1] < 3 * 3, "the budget is 3 s: a cached model must not wait for the network"


def test_with_no_network_at_all_what_is_cached_loads_and_what_is_not_is_told(tmp_path, tiny, cut_network):
    """In a network namespace, and asking the real address of the Hub: a look-up that fails or hangs must cost neither of them."""
    with serve({"team/tiny": tiny}) as hub:
        in_fresh_python("models._download('team/tiny', None)", tmp_path, hub.url)
    out = in_fresh_python("load('team/absent'); load('team/tiny'); load('team/tiny')", tmp_path, None, through=cut_network)
    assert "'team/absent' is not on this machine, and the Hub cannot be reached" in out
    assert f"Bundled: {', '.join(models.bundled())}. Downloaded before: team/tiny." in out and out.count("loaded LanguageModel") == 2
    seconds = [float(line.split()[1]) for line in out.splitlines() if line.startswith("seconds")]
    assert seconds[0] < 3 * 5, "the budget of a model that is not there is 5 s"
    assert seconds[2] < 3 * 3, "the budget of a cached model is 3 s"


def test_names_and_revisions_that_the_hub_does_not_have(tmp_path, tiny):
    with serve({"team/tiny": tiny}) as hub:
        out = in_fresh_python("load('team/other')", tmp_path, hub.url)
    assert "the Hub has no model 'team/other'" in out


def test_pickled_weights_on_the_hub_are_not_even_fetched(tmp_path, copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with serve({"team/old": copy}) as hub:
        out = in_fresh_python("load('team/old')", tmp_path, hub.url)
        assert not any("pytorch_model" in path for _, path in hub.requests)
    assert "can run any program" in out


def test_damage_on_the_way_is_noticed(tmp_path, tiny):
    """Same size, one bit changed: only the hash can tell. The next try starts clean."""
    with serve({"team/tiny": tiny}, damage="model.safetensors") as hub:
        out = in_fresh_python("load('team/tiny'); print(models.cached())", tmp_path, hub.url)
        assert "arrived damaged" in out and "[]" in out
        hub.damage = None
        again = "print(models._download('team/tiny', None).name, models.cached())"
        assert f"{COMMIT} ['team/tiny']" in in_fresh_python(again, tmp_path, hub.url)


@pytest.mark.parametrize("status, gated, wanted", [
    (401, True, "is gated: accept its licence.*hf auth login"), (403, True, "is gated"), (403, False, "refuses 'team/tiny' with status 403.*hf auth login")])
def test_a_model_that_the_hub_does_not_give_to_everyone(tmp_path, tiny, status, gated, wanted):
    """As on the real Hub, the list of files is public, and each file is refused. After logging in it loads."""
    with serve({"team/tiny": tiny}) as hub:
        hub.refuse, hub.gated = status, gated
        out = in_fresh_python("load('team/tiny'); print(models.cached())", tmp_path, hub.url)
        assert re.search(wanted, out) and "登录" in out and "[]" in out
        hub.refuse = None
        assert "['team/tiny']" in in_fresh_python("models._download('team/tiny', None); print(models.cached())", tmp_path, hub.url)


def test_a_file_that_comes_short_is_not_kept(tmp_path, tiny):
    with serve({"team/tiny": tiny}) as hub:
        hub.short = "model.safetensors"
        out = in_fresh_python("load('team/tiny'); print(models.cached())", tmp_path, hub.url)
        assert "broke off" in out and "Load it again" in out and "[]" in out
        hub.short = None
        assert "loaded LanguageModel" in in_fresh_python("load('team/tiny')", tmp_path, hub.url)


def test_a_download_cut_in_the_middle_goes_on_from_there(tmp_path, tiny):
    """The connection breaks after half the file; the next answer goes on where the last whole chunk stopped."""
    small_chunks = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 4096\n"  # real ones are 10 MB
    with serve({"team/tiny": tiny}) as hub:
        hub.cut, hub.cut_after = "model.safetensors", (tiny / "model.safetensors").stat().st_size // 2
        assert "loaded LanguageModel" in in_fresh_python(small_chunks + "load('team/tiny')", tmp_path, hub.url)
        starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for file, wanted in hub.ranges]
        assert starts and starts == sorted(set(starts)) and starts[0] > hub.cut_after - 4096


def test_a_download_that_breaks_for_good_leaves_nothing_half_and_works_the_next_time(tmp_path, tiny):
    with serve({"team/tiny": tiny}) as hub:
        hub.cut, hub.cut_after = "model.safetensors", 5000
        out = in_fresh_python("load('team/tiny'); print(models.cached())", tmp_path, hub.url)
        assert "broke off" in out and "Load it again to go on from there" in out and "[]" in out
        hub.cut = None
        assert "loaded LanguageModel" in in_fresh_python("load('team/tiny')", tmp_path, hub.url)


def test_a_revision_that_is_not_there(tmp_path, tiny):
    with serve({"team/tiny": tiny}) as hub:
        out = in_fresh_python(f"load('team/tiny', revision='v9'); load('team/tiny', revision='{COMMIT}')", tmp_path, hub.url)
    assert "refused" in out and "loaded LanguageModel" in out


def test_models_of_two_stacks_and_of_images(tiny, tmp_path):
    """The class is the one that config.json names; a model of images has a processor in place of a tokenizer."""
    import llmtutor as lt

    sizes = dict(vocab_size=320, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                 encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=24, pad_token_id=1, decoder_start_token_id=2)
    transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes)).save_pretrained(tmp_path / "bart")
    models.load(tiny).tokenizer.save_pretrained(tmp_path / "bart")
    bart = models.load(tmp_path / "bart")
    assert type(bart.model).__name__ == "BartForConditionalGeneration" and bart.processor is None
    assert lt.attend(bart, "Lily gave", target="the ball").cross.weights.shape[0] == 2
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8)
    transformers.ViTForImageClassification(transformers.ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    with pytest.raises(models.LoadError, match="no tokenizer"):
        models.load(tmp_path / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    vit = models.load(tmp_path / "vit")
    assert vit.tokenizer is None and vit.processor is not None
    att = lt.attend(vit, image=numpy.zeros((40, 30, 3), dtype="uint8"))
    assert att.tokens == ["⟨CLS⟩", "r0c0", "r0c1", "r1c0", "r1c1"]
