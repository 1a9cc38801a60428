"""The three methods of the article, as the article writes them."""

from importlib.resources import files

from minicpm_o import MiniCPM_o_Model

samples = files("minicpm_o") / "assets" / "samples"
image_path, audio_path = str(samples / "photo.jpg"), str(samples / "speech.wav")

model = MiniCPM_o_Model()

print("Image:", model.describe_image(image_path))

print("Audio:", model.answer_audio_question(audio_path, "What does the speaker say?"))

history = [
    {"type": "text", "content": "Look at this picture."},
    {"type": "image", "content": image_path},
    {"type": "assistant", "content": "I see it. What would you like to know?"},
    {"type": "text", "content": "What is in this picture?"},
]
print("Chat:", model.multimodal_chat(history))
