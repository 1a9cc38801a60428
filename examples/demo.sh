#!/usr/bin/env bash
# The whole way through the command line: look at a photo, hear a question, answer it aloud, listen to that answer.
#
#   make demo            (or, with the package installed:  bash examples/demo.sh)
set -euo pipefail
cd "$(dirname "$0")/.."

minicpm_o="${BIN:+$BIN/}minicpm-o"
samples="${SAMPLES:-minicpm_o/assets/samples}"
out="${OUT:-build/demo}"
mkdir -p "$out"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() {
    printf '$ minicpm-o'
    for word in "$@"; do
        case "$word" in *" "*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    "$minicpm_o" "$@"
}

step "0. Nano: fetched and assembled at the first run, from then on offline"
run pull nano

step "1. It looks at a photo ($samples/photo.jpg, a cat)"
run describe "$samples/photo.jpg"

step "2. It hears a question ($samples/speech.wav) and answers it aloud ($out/answer.wav)"
run ask --audio "$samples/speech.wav" --speak "$out/answer.wav"

step "3. It listens to its own answer"
run transcribe "$out/answer.wav"

step "4. It speaks a sentence and hears the same words again"
said="The quick brown fox jumps over the lazy dog."
run speak "$said" --output "$out/sentence.wav"
heard="$("$minicpm_o" transcribe "$out/sentence.wav")"
plain() { tr '[:upper:]' '[:lower:]' <<<"$1" | tr -cd '[:alnum:] \n'; }
printf 'said:  %s\nheard: %s\n' "$said" "$heard"
if [ "$(plain "$said")" != "$(plain "$heard")" ]; then
    printf 'The words differ.\n' >&2
    exit 1
fi
printf '\nDone. Listen to %s and %s; more: minicpm-o --help\n' "$out/answer.wav" "$out/sentence.wav"
