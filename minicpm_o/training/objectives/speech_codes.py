"""The talker's loss (4.5): next speech token, given the words, what the language model thought of them and the codes
before, laid out exactly as `runtime.talker` reads them when it speaks a whole reply.

    word + thought, word + thought, ..., end of text, start of speech, code, code, ...      read
                                                      code,            code, code, ..., end learned

Shapes: B turns, T positions, D talker's width, L language model's width, V speech tokens.
Source: MiniCPMTTS of MiniCPM-o 4.5 for the conditions; its training is not published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ...errors import OptionError
from ...model.outputs.talker import Talker
from ..rows import NOT_LEARNED, Batch, SpeechTurn
from ..terms import Term
from .switch import Switch


class SpeechCodesConfig(Switch, frozen=True):
    """Speech tokens of spoken answers."""

    teaches_language: bool = Field(default=False)
    """Let the loss change the language model's thoughts too, not the talker alone."""


def count_codes(batch: Batch) -> int:
    """Speech tokens that are learned, ends included."""
    return sum(len(turn.codes) + 1 for row in batch.rows for turn in row.speech)


def speech_codes(talker: Talker, batch: Batch, hidden: Tensor, *, teaches_language: bool = False) -> Term:
    """hidden (B, T, L) of the batch's rows -> the loss over their spoken turns.

    Without one, a turn that counts for nothing runs: sharded ranks must all go through the talker.
    """
    hidden = hidden if teaches_language else hidden.detach()
    turns = [(row, turn, line) for line, row in enumerate(batch.rows) for turn in row.speech]
    sequences, targets = [], []
    for row, turn, line in turns:
        check_codes(turn, talker, row.name)
        ids = torch.from_numpy(row.ids[turn.words.start : turn.words.stop]).to(hidden.device)
        embeds, labels = lay_turn(talker, ids, hidden[line, turn.words.start : turn.words.stop],
                                  torch.from_numpy(turn.codes).to(hidden.device))
        sequences.append(embeds)
        targets.append(labels)
    if not turns:
        embeds, labels = lay_turn(talker, *_nothing(hidden))
        return Term(talker_logits(talker, embeds[None]).float().sum() * 0.0, 0.0)
    labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=NOT_LEARNED)
    logits = talker_logits(talker, nn.utils.rnn.pad_sequence(sequences, batch_first=True))
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=NOT_LEARNED, reduction="sum")
    return Term(losses, float((labels != NOT_LEARNED).sum()))


def lay_turn(talker: Talker, ids: Tensor, hidden: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Words ids (N,) with hidden (N, L) and codes (S,) -> embeds (N + 2 + S, D) and labels of the same length."""
    config = talker.config
    thoughts = talker.project(hidden)
    if config.normalize_hidden:
        thoughts = F.normalize(thoughts, dim=-1)
    marks = torch.tensor([config.text_eos, config.audio_bos], device=ids.device)
    embeds = torch.cat([talker.emb_text(ids) + thoughts, talker.emb_text(marks), talker.emb_code[0](codes)])
    labels = torch.full((len(embeds),), NOT_LEARNED, device=ids.device)
    labels[len(ids) + 1 :] = torch.cat([codes, codes.new_tensor([config.audio_eos])])
    return embeds, labels


def talker_logits(talker: Talker, embeds: Tensor) -> Tensor:
    """embeds (B, T, D), right-padded -> logits (B, T, V); causal, so that the padding is not seen."""
    positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
    hidden = talker.model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    return talker.head_code[0](hidden)


def check_codes(turn: SpeechTurn, talker: Talker, name: str) -> None:
    """Raises OptionError for speech tokens that the talker does not have, or none."""
    codes, last = turn.codes, talker.config.audio_eos - 1
    if not len(codes) or codes.min() < 0 or codes.max() > last:
        span = f"from {codes.min()} to {codes.max()}" if len(codes) else "none at all"
        raise OptionError(f"{name or 'a sample'} has speech tokens {span}; the talker's are 0 to {last}, its end is "
                          f"added by itself")


def _nothing(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    zero = torch.zeros(1, dtype=torch.long, device=hidden.device)
    return zero, hidden.new_zeros(1, hidden.shape[-1]), zero
