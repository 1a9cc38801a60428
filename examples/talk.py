"""A spoken question to a spoken answer: python examples/talk.py [QUESTION.wav] [ANSWER.wav]"""

import sys
from importlib.resources import files

from minicpm_o import MiniCPMO

question = sys.argv[1] if len(sys.argv) > 1 else str(files("minicpm_o") / "assets" / "samples" / "speech.wav")
answer = sys.argv[2] if len(sys.argv) > 2 else "answer.wav"

model = MiniCPMO.from_pretrained("nano")
text = model.answer_audio_question(question, "Answer the spoken question.")
speech = model.speak(text, answer)
print(f"Answer: {text}\nSpoken into {answer}, {len(speech.waveform) / speech.rate_hz:.1f} s")
print("Heard back:", model.transcribe(answer, language="en").text)
