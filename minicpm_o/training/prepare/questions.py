"""Everyday questions that the language model answers for itself, so that tuning does not unlearn its talk.

Data only: templates, the words that fill them, and questions that stand alone.
"""

from __future__ import annotations

from ..labels import with_article

COUNTRIES = (
    "France Germany Italy Spain Japan China India Brazil Canada Egypt Russia Mexico Greece Poland Sweden Norway "
    "Portugal Turkey Australia Kenya"
)
ANIMALS = (
    "cat dog horse elephant lion tiger whale eagle bee spider shark penguin rabbit snake frog owl bear wolf cow pig"
)
THINGS = (
    "computer bicycle telescope guitar piano camera bridge volcano river mountain rainbow battery magnet mirror clock "
    "map compass engine vaccine robot"
)
FOODS = "bread cheese pizza soup salad rice pasta coffee tea chocolate honey butter apple banana tomato"
JOBS = "doctor teacher farmer pilot cook painter nurse firefighter scientist engineer"

TEMPLATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (COUNTRIES, (
        "What is the capital of {name}?",
        "Which language do people speak in {name}?",
        "Tell me one fact about {name}.",
        "On which continent is {name}?",
    )),
    (ANIMALS, (
        "What does {article} eat?",
        "Where does {article} live?",
        "How long does {article} live?",
        "Tell me something about the {name}.",
        "What sound does {article} make?",
    )),
    (THINGS, (
        "What is {article}?",
        "How does {article} work?",
        "What is {article} used for?",
        "Who invented the {name}?",
    )),
    (FOODS, (
        "How do I make {name}?",
        "Is {name} healthy?",
        "What is {name} made of?",
        "What goes well with {name}?",
    )),
    (JOBS, (
        "What does {article} do?",
        "How do I become {article}?",
        "Why do we need {article}?",
    )),
)
"""(words, templates): {name} is the word, {article} the word with its article."""

ALONE = (
    "How many days are there in a week?",
    "How many months are in a year?",
    "What color is the sky?",
    "What color is grass?",
    "What is two plus two?",
    "What is ten minus four?",
    "What is three times five?",
    "Who wrote Romeo and Juliet?",
    "Who was the first man on the moon?",
    "What is the largest ocean?",
    "What is the tallest mountain in the world?",
    "What is the fastest animal?",
    "What is the boiling point of water?",
    "Why is the sky blue?",
    "Why do leaves change color?",
    "What causes rain?",
    "How do airplanes fly?",
    "What is gravity?",
    "What is photosynthesis?",
    "Tell me a joke.",
    "Tell me a short story.",
    "Give me some advice for a job interview.",
    "How can I sleep better?",
    "How can I learn a new language?",
    "What should I cook for dinner?",
    "Write a short poem about the sea.",
    "Name three colors.",
    "Name three fruits.",
    "Name three planets.",
    "Hello, how are you?",
    "Good morning.",
    "Can you help me?",
    "What is your name?",
    "What can you do?",
    "Thank you very much.",
    "What is the meaning of life?",
    "How do I tie a tie?",
    "What time is it?",
    "How is the weather today?",
    "What is the opposite of hot?",
    "What is the opposite of big?",
    "Say hello in Spanish.",
    "How do you spell the word apple?",
    "What is the largest planet?",
    "How far away is the moon?",
    "What is machine learning?",
    "What is the internet?",
    "What is music?",
    "Why do we dream?",
    "Why do cats purr?",
    "How do fish breathe?",
    "How do birds fly?",
    "What is a healthy breakfast?",
    "How do I stay fit?",
    "How do I save money?",
    "What is the best way to study?",
)


def all_questions() -> list[str]:
    """Every question, in a fixed order."""
    filled = [
        template.format(name=name, article=with_article(name))
        for words, templates in TEMPLATES
        for name in words.split()
        for template in templates
    ]
    return [*filled, *ALONE]
