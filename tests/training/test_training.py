"""Training: layout as at run time, kept-out rows stay out, a run resumes, the loss can fall."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from tiny_nano import ByteTokenizer, Layout, draw, make_model, make_store  # noqa: E402

from minicpm_o.errors import CheckpointError  # noqa: E402
from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.training import samples as s  # noqa: E402
from minicpm_o.training.export import connector_tensors, export_connectors, import_connectors  # noqa: E402
from minicpm_o.training.features import FeatureStore  # noqa: E402
from minicpm_o.training.labels import sentence, spoken_label, with_article  # noqa: E402
from minicpm_o.training.nano import make_parser, read_shares, recipe_of, run_stage  # noqa: E402
from minicpm_o.training.run_folder import read_metrics  # noqa: E402
from minicpm_o.training.splits import VALIDATION_PERCENT, is_validation  # noqa: E402
from minicpm_o.training.trees import TreeFeed, TreeObjective, batches, held_out_loss  # noqa: E402
from minicpm_o.training.warm_start import content_tokens  # noqa: E402


@pytest.fixture
def store() -> FeatureStore:
    return make_store()


def test_a_sample_is_the_runtimes_prompt_with_branches() -> None:
    sample = draw(random.Random(0))[0]
    stem = int((sample.segments == 0).sum())
    assert sample.positions.tolist()[stem] == stem
    second = int(np.flatnonzero(sample.segments == 2)[0])
    assert sample.positions[second] == stem, "every branch continues the trunk"
    for branch in (1, 2):
        answer = sample.ids[(sample.segments == branch) & sample.is_answer]
        assert answer[-1] == ByteTokenizer.special.im_end, "an answer learns to end"


def test_the_main_stage_learns_and_goes_on(store: FeatureStore, tmp_path: Path) -> None:
    options = make_parser().parse_args(["--data", ".", "--features", ".", "--language", ".", "--tokenizer", ".",
                                        "--run", ".", "--steps", "6", "--batch-size", "2"])
    recipe = recipe_of(options)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"save_every": 3, "log_every": 1})})
    run_stage(TreeObjective(make_model().train()), TreeFeed(draw, store, 2), recipe, tmp_path / "whole")
    whole = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert whole[-1]["next_token/naming"] < whole[0]["next_token/naming"]
    with pytest.raises(ZeroDivisionError):
        run_stage(TreeObjective(make_model().train()), TreeFeed(broken_after(4), store, 2), recipe, tmp_path / "cut")
    run_stage(TreeObjective(make_model().train()), TreeFeed(draw, store, 2), recipe, tmp_path / "cut")
    resumed = read_metrics(tmp_path / "cut" / "metrics.jsonl")
    assert [row["loss"] for row in resumed] == [row["loss"] for row in whole]
    assert whole[-1]["samples"] == {"ears": 6, "naming": 6, "presence": 6} == resumed[-1]["samples"]


def broken_after(steps: int):
    calls = iter(range(1000))

    def drawn(rng: random.Random) -> list[s.Sample]:
        if next(calls) == steps:
            raise ZeroDivisionError
        return draw(rng)

    return drawn


def test_a_tree_learns_what_its_questions_learn_alone(store: FeatureStore) -> None:
    model, tree = make_model().eval(), draw(random.Random(0))[0]
    whole = held_out_loss(model, batches([tree], store, 1))
    questions = [s.Branch("naming", "q", "cat"), s.Branch("presence", "p", "no")]
    alone = [s.lay_out(Layout(), s.Trunk(images=tree.image_rows), [branch]) for branch in questions]
    assert held_out_loss(model, batches(alone, store, 2)) == pytest.approx(whole, abs=1e-4)


def test_exported_lora_is_the_adapter_with_its_scale() -> None:
    model = make_model()
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tensors = connector_tensors(model)
    layer = model.language.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(1, tiny().language.width)
    added = layer(x) - layer.base_layer(x)
    a, b = tensors["lora.layers.0.q_proj.a"], tensors["lora.layers.0.q_proj.b"]
    torch.testing.assert_close(x @ a.T @ b.T, added, atol=1e-5, rtol=1e-4)
    assert {name.split(".")[0] for name in tensors} == {"resampler", "projector", "ears", "markers", "lora"}


def test_exported_connectors_are_taken_over_again_unless_their_shape_changed(tmp_path: Path) -> None:
    first, second = make_model(), make_model()
    for parameter in first.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    export_connectors(first, tmp_path / "connectors.safetensors")
    assert import_connectors(second, tmp_path / "connectors.safetensors") == []
    before, after = connector_tensors(first), connector_tensors(second)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=5e-3, rtol=1e-3, msg=name)
    second.connectors.resampler.concept_words = torch.nn.Parameter(torch.zeros(3, tiny().language.width))
    assert import_connectors(second, tmp_path / "connectors.safetensors") == ["resampler.concept_words"]
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors cannot be read as connectors"):
        import_connectors(second, tmp_path / "bad.safetensors")


def test_the_kept_out_rule_is_stable_and_of_its_size() -> None:
    kept = sum(is_validation("caltech101", f"airplanes/{i}.jpg") for i in range(5000))
    assert 0.8 * VALIDATION_PERCENT < kept / 50 < 1.2 * VALIDATION_PERCENT
    assert is_validation("fsdd", "0_george_10.flac") == is_validation("fsdd", "0_george_10.flac")


@pytest.mark.parametrize(
    ("label", "words"),
    [("airplanes", "an airplane"), ("scissors", "scissors"), ("car_side", "a car"), ("umbrella", "an umbrella")],
)
def test_labels_become_words(label: str, words: str) -> None:
    assert with_article(spoken_label(label)) == words


@pytest.mark.parametrize(
    ("colour", "ground", "words"),
    [
        ("red", "white", "red wild cat on a white background."),
        ("orange", None, "n orange wild cat."),
        (None, "grey", "wild cat on a grey background."),
        (None, None, "wild cat."),
    ],
)
def test_a_label_is_described_with_what_is_known_of_its_colours(colour, ground, words) -> None:
    for seed in range(8):
        branch = s.label_caption_branch(random.Random(seed), "wild_cat", colour, ground)
        assert branch.task == "label_caption" and branch.question in s.CAPTION_PROMPTS
        assert colour or ground or branch.question in s.SHORT_PROMPTS, "a bare name is no sentence"
        assert branch.answer.endswith(words) and branch.answer[0] == "A", branch.answer


def test_sentences_are_tidied() -> None:
    assert sentence("two dogs run .") == "Two dogs run."
    assert sentence('"is it red ?"') == "Is it red?"


def test_content_words_leave_out_the_small_ones() -> None:
    kept = content_tokens(["A dog is on the grass."], ByteTokenizer())
    assert set(kept) == {token for word in ("dog", "grass") for token in ByteTokenizer().encode(" " + word)}


def test_shares_of_the_command_line() -> None:
    assert read_shares("ears=0.5, chat=1") == {"ears": 0.5, "chat": 1.0}
    for text, says in (("ears", "not of the form"), ("noses=1", "sources are captioned"), ("ears=0", "from 0 up"),
                       ("ears=-1,chat=2", "from 0 up")):
        with pytest.raises(argparse.ArgumentTypeError, match=says):
            read_shares(text)
