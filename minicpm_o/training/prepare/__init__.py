"""Training sets to what the training reads: caches of the frozen encoders' outputs, speech made from text, answers.

    python -m minicpm_o.training.prepare --data SETS --out FEATURES

    SETS ── texts ──> texts.json ── speech ──> audio/NAME.pcm, .json ── hearing ──> audio/NAME_frames.npy, .json
      │                   └──────── chat ────> chat.json, language.safetensors, tokenizer.json
      └──── images ─> images/features.npy, logits.npy, index.json ── colours ──> colours.json

Stages know files, not losses; `training.features` and `training.nano` read what they write. Every random draw belongs
to a name (of a picture's view, of a text), so a stage that was broken off goes on to the same files.
"""
