"""Instruction tuning: answers alone are learned, packing changes nothing, the talker learns as it speaks, live units
lie as at run time, and an export keeps every submodule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixed_draws import Fixed

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from minicpm_o.checkpoints.official import Checkpoint  # noqa: E402
from minicpm_o.checkpoints.torch_loader import load_official  # noqa: E402
from minicpm_o.errors import CheckpointError, OptionError  # noqa: E402
from minicpm_o.inputs.messages import messages_from_openai  # noqa: E402
from minicpm_o.model.outputs.talker import TorchTalker  # noqa: E402
from minicpm_o.runtime.talker import conditions  # noqa: E402
from minicpm_o.training.examples import Example  # noqa: E402
from minicpm_o.training.live import LiveUnit, live_row  # noqa: E402
from minicpm_o.training.lora import LoraConfig, choose_parts, counted_parts  # noqa: E402
from minicpm_o.training.objectives.speech_codes import SpeechCodesConfig, lay_turn, talker_logits  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED, collate, hidden_states  # noqa: E402
from minicpm_o.training.save import export_merged, export_unmerged, load_unmerged  # noqa: E402
from minicpm_o.training.sft import SftConfig, build  # noqa: E402
from minicpm_o.training.trainee import OfficialTrainee, open_trainee  # noqa: E402

TRAINED = ("language", "projector", "talker")


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype(np.float32) * 0.1


def spoken_answer(question: str, answer: str, codes: Sequence[int] | None) -> Example:
    picture = Image.new("RGB", (40, 40), "red")
    messages = messages_from_openai([
        {"role": "user", "content": [{"type": "image", "image": picture},
                                     {"type": "audio", "audio": noise(len(question)), "rate_hz": 16_000},
                                     {"type": "text", "text": question}]},
        {"role": "assistant", "content": answer}])
    return Example(tuple(messages), name=question,
                   speech_codes=() if codes is None else (np.array(codes, np.int64),))


def session() -> Example:
    units = (LiveUnit(noise(1)), LiveUnit(noise(2), says="hello"), LiveUnit(noise(3), says="bye", ends_turn=True))
    return Example((), "live", "a session", facts={"units": units})


def examples() -> list[Example]:
    return [spoken_answer("what is it?", "a red square", [5, 9, 30]), spoken_answer("and this?", "red", None),
            session()]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def trainee(home: Path) -> OfficialTrainee:
    return open_trainee("tiny-4.5", home=home)


def config(**values: Any) -> SftConfig:
    return SftConfig(speech_codes=SpeechCodesConfig(), **values)


def losses(objective: Any, micro: Any) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(term.total) / term.count for name, term in objective(micro).items()}


def fit(objective: Any, micro: Any, steps: int = 40) -> None:
    learning = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    for _ in range(steps):
        sum(term.total / term.count for term in objective(micro).values()).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_packed_learns_what_unpacked_learns(trainee: OfficialTrainee) -> None:
    found = {}
    for is_packed in (True, False):
        objective, feed = build(config(pack=is_packed), trainee, Fixed(examples()), 0)
        (micro,) = feed.step(0)
        found[is_packed] = losses(objective.eval(), micro)
        assert {name: term.count for name, term in objective(micro).items()} == objective.counts(micro)
    assert len(feed.step(0)[0].batch.rows) == 3
    assert found[True].keys() == {"next_token", "decisions", "speech_codes"}
    for name, loss in found[False].items():
        assert found[True][name] == pytest.approx(loss, rel=1e-4), name


def test_the_talker_learns_from_what_it_reads_when_it_speaks(trainee: OfficialTrainee) -> None:
    """Logits of training are those of the runtime, step by step."""
    row = trainee.row(spoken_answer("what?", "a red square", [5, 9, 30]))
    (turn,), talker = row.speech, trainee.model.talker.eval()
    with torch.no_grad():
        hidden = hidden_states(trainee.model.eval(), collate([row]))[0, turn.words.start : turn.words.stop]
        ids = row.ids[turn.words.start : turn.words.stop]
        embeds, labels = lay_turn(talker, torch.from_numpy(ids), hidden, torch.from_numpy(turn.codes))
        learned = talker_logits(talker, embeds[None])[0, labels != NOT_LEARNED].numpy()
    assert trainee.tokenizer.decode(ids) == "a red square", "the end of the answer is not spoken"
    assert labels[labels != NOT_LEARNED].tolist() == [5, 9, 30, talker.config.audio_eos]
    network = TorchTalker(talker)
    cache = network.new_cache()
    spoken = [network.run(conditions(network, ids, hidden.numpy(), text_finished=True), cache)]
    spoken += [network.run(network.embed_codes(np.array([code])), cache) for code in turn.codes]
    np.testing.assert_allclose(learned, np.stack(spoken), atol=2e-4)


def test_a_live_session_lies_as_the_runtime_lays_it(trainee: OfficialTrainee) -> None:
    from minicpm_o.runtime import duplex
    from minicpm_o.runtime.decide import DecideConfig, DuplexTokens
    from minicpm_o.runtime.torch_parts import TorchEngine
    from minicpm_o.runtime.window import Window

    tokenizer, model = trainee.tokenizer, trainee.model.eval()
    marks = {"unit_start": "<unit>", "unit_end": "</unit>", "image_start": "<image>", "image_end": "</image>",
             "slice_start": "<slice>", "slice_end": "</slice>", "listen": "<|listen|>", "speak": "<|speak|>",
             "tts_bos": "<|tts_bos|>", "tts_eos": "<|tts_eos|>", "chunk_eos": "<|chunk_eos|>",
             "chunk_tts_eos": "<|chunk_tts_eos|>", "turn_eos": "<|turn_eos|>", "im_end": "<|im_end|>"}
    tokens = DuplexTokens(**{name: tokenizer.id_of(text) for name, text in marks.items()})
    units = session().facts["units"]
    row = live_row(trainee, units)
    engine = TorchEngine(model.language, trainee.config.language)
    head = tokenizer.encode("<|im_start|>system\n<|im_end|>\n", markup=True)
    stream = duplex.start_stream(engine, Window(), engine.embed(head), ())
    fed = list(head)
    for unit in units:
        silent = np.zeros((10, trainee.config.language.width), np.float32)
        duplex.feed_unit(stream, engine, tokens, sound=silent)
        said = ["<|listen|>"] if unit.says is None else ["<|speak|>", unit.says, *["<|turn_eos|>"] * unit.ends_turn,
                                                          "<|chunk_eos|>"]
        script = tokenizer.encode("".join(said), markup=True)
        duplex.decide, kept = (lambda *_, script=script: (script.pop(0), True)), duplex.decide
        try:
            result = duplex.speak_unit(stream, engine, tokens, DecideConfig(), lambda chances: 0)
        finally:
            duplex.decide = kept
        fed += [tokens.unit_start, *[tokenizer.special.placeholder] * 10, *result.fed_ids]
    assert row.ids.tolist() == fed


def test_lora_with_projector_talker_and_live_tokens_exports_whole(home: Path, tmp_path: Path) -> None:
    base = open_trainee("tiny-4.5", home=home).model.state_dict()
    trainee = open_trainee("tiny-4.5", home=home)
    choose_parts(trainee.model, TRAINED, LoraConfig(rank=4))
    objective, feed = build(config(), trainee, Fixed(examples()), 0)
    (micro,) = feed.step(0)
    before = losses(objective, micro)
    fit(objective, micro)
    after = losses(objective, micro)
    assert all(after[name] < 0.8 * before[name] for name in before), (before, after)

    checkpoint = Checkpoint.open(export_merged(trainee, tmp_path / "merged"))
    merged = load_official(checkpoint, dtype=torch.float32)
    state = merged.state_dict()
    assert state.keys() == base.keys(), "every submodule is there"
    assert (tmp_path / "merged" / "assets" / "token2wav").is_dir()
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    changed = {name for name in base if not torch.equal(base[name], state[name])}
    assert {name.split(".")[0] for name in changed} == {"language", "connectors", "talker"}
    assert not any(name.startswith(("vision.", "hearing.", "connectors.resampler.")) for name in changed)

    export_unmerged(trainee, tmp_path / "change")
    again = open_trainee("tiny-4.5", home=home)
    load_unmerged(again, tmp_path / "change")
    with torch.no_grad():
        wanted = hidden_states(trainee.model.eval(), micro.batch)
        for model in (merged.eval(), again.model.eval()):
            assert torch.allclose(hidden_states(model, micro.batch), wanted, atol=1e-4)


def test_a_change_over_another_model_is_refused(home: Path, tmp_path: Path) -> None:
    trainee = open_trainee("tiny-4.5", home=home)
    choose_parts(trainee.model, ("projector", "language"), LoraConfig(rank=2))
    export_unmerged(trainee, tmp_path)
    other = open_trainee("tiny-4.5", home=home)
    with torch.no_grad():
        other.model.language.model.layers[0].mlp.up_proj.weight.add_(0.1)
    with pytest.raises(CheckpointError, match="these are other weights"):
        load_unmerged(other, tmp_path)


def test_the_merged_export_opens_like_any_checkpoint(home: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    import minicpm_o.auto  # noqa: F401  # registers
    from minicpm_o import MiniCPMO

    trainee = open_trainee("tiny-4.5", home=home)
    choose_parts(trainee.model, TRAINED, LoraConfig(rank=2))
    export_merged(trainee, tmp_path)
    assert MiniCPMO(tmp_path).chat([{"role": "user", "content": "hi"}], max_tokens=2) is not None
    assert AutoModelForCausalLM.from_pretrained(tmp_path).omni.talker is not None


def test_what_cannot_be_learned_is_skipped_and_counted(trainee: OfficialTrainee, caplog: Any) -> None:
    bad = [spoken_answer("codes?", "x", [500]), spoken_answer("long?", "word " * 900, None),
           Example(tuple(messages_from_openai([{"role": "user", "content": "no answer"}])), name="mute")]
    objective, feed = build(config(max_tokens=600), trainee, Fixed([*bad, examples()[1]]), 0)
    (micro,) = feed.step(0)
    assert len(micro.batch.rows) == 1 and feed.counts()["skipped chat"] == 3
    assert "speech tokens from 500" in caplog.text and "more than 600" in caplog.text
    only_bad = build(config(max_tokens=600), trainee, Fixed(bad), 0)[1].step(0)[0]
    assert only_bad.batch.num_labels == 0 and torch.isfinite(sum(t.total for t in objective(only_bad).values()))


def test_models_without_a_talker_or_live_units_say_so(home: Path) -> None:
    older = open_trainee("tiny-2.6", home=home)
    with pytest.raises(OptionError, match="no talker"):
        build(config(), older, Fixed([]), 0)
    with pytest.raises(OptionError, match=r"no live units.*2\.6"):
        live_row(older, [LiveUnit(noise(1))])
    with pytest.raises(OptionError, match="no part 'brain'"):
        choose_parts(older.model, ("brain",), None)
    with pytest.raises(OptionError, match="has no talker"):
        choose_parts(older.model, ("talker",), None)


def test_parts_are_counted(trainee: OfficialTrainee) -> None:
    choose_parts(trainee.model, ("projector",), None)
    counts = counted_parts(trainee.model)
    assert counts["projector"][0] == counts["projector"][1] > 0 and counts["language"][0] == 0
    assert sum(whole for _, whole in counts.values()) == sum(p.numel() for p in trainee.model.parameters())
