"""An official MiniCPM-o sees, hears, goes on talking and speaks in a voice that it is shown.

    python examples/official.py --model openbmb/MiniCPM-o-4_5 --voice voice.wav

--model takes the name or folder of a checkpoint, which torch runs, or a bundle that `minicpm-o export` made of one.
"""

import argparse
from importlib.resources import files

from minicpm_o import AudioPart, ImagePart, Message, MiniCPMO, Reply, TextPart
from minicpm_o.inputs.audio import write_wav
from minicpm_o.inputs.official_processor import PromptOptions
from minicpm_o.inputs.system_prompts import TRANSCRIBE_EN, system_prompt

samples = files("minicpm_o") / "assets" / "samples"
parser = argparse.ArgumentParser()
parser.add_argument("--model", default="openbmb/MiniCPM-o-4_5")
parser.add_argument("--picture", default=str(samples / "photo.jpg"))
parser.add_argument("--question", default=str(samples / "speech.wav"), help="a spoken question")
parser.add_argument("--voice", default=str(samples / "speech.wav"), help="a sound of the voice to speak in")
parser.add_argument("--answer", default="answer.wav", help="where the spoken answer goes")
parser.add_argument("--max-tokens", type=int, help="longest answer")
given = parser.parse_args()

model = MiniCPMO.from_pretrained(given.model)
version = model.parts.config.version

heard = [Message("user", (TextPart(TRANSCRIBE_EN), AudioPart(given.question)))]
print("Heard:", model.chat(heard, temperature=0, max_tokens=given.max_tokens))

# Several turns: the second costs only what is new, for the first is in the cache.
turns = [Message("user", (ImagePart(given.picture), TextPart("What is in this picture?")))]
reply = model.chat(turns, options=PromptOptions(max_slice_nums=2), max_tokens=given.max_tokens)
print("Seen:", reply)
turns += [Message("assistant", (TextPart(reply.text),)), Message("user", (TextPart("What could happen next?"),))]
for event in model.chat(turns, stream=True, options=PromptOptions(max_slice_nums=2), max_tokens=given.max_tokens):
    if isinstance(event, Reply):
        print(f"\n{event.usage.cached} of {event.usage.prompt} tokens were there already")
    else:
        print(event.text, end="", flush=True)

# The voice stands in the system prompt; the question may be spoken too.
aloud = [system_prompt(version, "audio_assistant", language="en", ref_audio=given.voice),
         Message("user", (AudioPart(given.question),))]
reply = model.chat(aloud, generate_audio=True, seed=1, max_tokens=given.max_tokens)
print("Said:", reply)
if reply.speech is not None:
    write_wav(given.answer, reply.speech.waveform, reply.speech.rate_hz)
    print(f"Spoken into {given.answer}, {reply.speech.seconds:.1f} s")
