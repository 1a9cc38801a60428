"""Prompts whose answers teach the drafter: everyday requests made of templates and words.

Data and their draws only. Among them are requests to repeat, list and count, as people make them of an assistant.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .prepare.questions import all_questions

DOINGS = tuple((
    "learn to swim|bake bread|plant tulips|clean a window|fix a flat tyre|write a diary|save money|train a puppy|"
    "paint a wall|speak in public|make new friends|cook rice|iron a shirt|study for an exam|choose a laptop|"
    "ride a horse|grow tomatoes|plan a birthday party|sew a button|run a marathon|learn a language|remove a stain|"
    "build a birdhouse|read faster|organise a desk|make coffee|learn chess|take better photos|find a job|"
    "start a business|eat more vegetables|wash a car|knit a scarf|draw a face|stay awake|remember names|cut an onion|"
    "read a map|prepare for an interview|sing better|boil an egg|dry herbs|polish shoes|set up a tent|catch a fish|"
    "teach a child to read|sharpen a knife|move house|write a speech|learn to dance|play the drums|make soap|"
    "build a website|use less electricity|adopt a dog|keep bees|make jam|walk more|choose a bicycle|hang a picture"
).split("|"))
MATTERS = tuple((
    "photosynthesis|gravity|inflation|democracy|a black hole|an earthquake|the water cycle|evolution|the internet|"
    "a solar eclipse|a volcano|the stock market|a bank loan|electricity|magnetism|the immune system|an atom|a cell|DNA|"
    "climate change|recycling|a computer program|a budget|friendship|time zones|tides|a rainbow|sound|light|a lens|"
    "a compass|insurance|a parliament|the heart|digestion|a glacier|a desert|a coral reef|migration|pollination|"
    "a food chain|a fossil|a comet|the moon|a galaxy|a rocket|a telescope|an engine|a battery|a bridge|concrete|glass|"
    "paper|cotton|salt|yeast|chocolate"
).split("|"))
PEOPLE = tuple((
    "a tired baker|a clever fox|an old sailor|a shy robot|a lost kitten|a brave mouse|a forgetful wizard|two sisters|"
    "a lonely giant|a curious girl|a boy and his kite|a postman|a clockmaker|a dragon|a snowman|a farmer|a taxi driver|"
    "a gardener|a stray dog|an astronaut|a goat|a shopkeeper"
).split("|"))
PLACES = tuple("a forest|the sea|a small village|a big city|a train|an island|a castle|a school|a market|the moon|"
               "a mountain hut|a museum|an old house|a garden|a farm|a station".split("|"))
READERS = tuple("my boss|my teacher|a customer|my neighbour|my grandmother|a colleague|a hotel|my cousin|a bookshop|"
                "my doctor|a school|my team|the bank|a restaurant|my sister|a company".split("|"))
MATTERS_OF_LETTERS = tuple((
    "asking for a day off|thanking them for a gift|inviting them to dinner|complaining about noise|asking for advice|"
    "cancelling a meeting|apologising for being late|asking for a refund|congratulating them|describing my holiday|"
    "telling them about my new job|confirming an appointment|recommending a film|ordering books|reporting a broken lamp"
).split("|"))
DISHES = tuple((
    "vegetable curry|apple pie|fried rice|potato salad|chicken stew|lentil soup|omelette|chocolate cake|banana bread|"
    "pasta with mushrooms|fish tacos|lemonade|garlic bread|oat cookies|hummus|pizza dough|rice pudding|fruit salad"
).split("|"))
BEGINNINGS = ("Last week", "In the morning", "My brother", "Once", "The teacher", "Every year")
TEMPLATES = (
    "How do I {doing}?", "Give me {few} tips to {doing}.", "What do I need to {doing}?", "Why is it good to {doing}?",
    "Suggest a plan to {doing} in two weeks.", "What mistakes do people make when they {doing}?",
    "What is the easiest way to {doing}?", "Is it difficult to {doing}?", "Can you help me {doing}?",
    "Explain to a child what {matter} is.", "What is {matter}?", "How does {matter} work?",
    "Why is {matter} important?", "Explain {matter} in simple words.",
    "What is the difference between {matter} and {matter}?", "Compare {matter} with {matter}.",
    "Tell me something interesting about {matter}.", "What does the word {noun} mean?", "Define {noun}.",
    "Use the word {noun} in a sentence.", "Tell me about {noun}.",
    "Write a sentence about {noun} and {noun}.", "Write a poem about {noun}.", "Make up a riddle about {noun}.",
    "Write four lines of a poem about {noun} and {noun}.", "What are the advantages of {noun}?",
    "List {few} uses of {noun}.", "List {few} kinds of {noun}.", "Name {few} things that have to do with {noun}.",
    "What is the difference between a {noun} and a {noun}?", "What do you think about {noun}?",
    "Give me an example of {noun}.", "I feel tired today because of {noun}. What should I do?",
    "Tell me a short story about {person} in {place}.", "Tell me a story about {person} and {person}.",
    "Describe {place} in winter.", "Describe {place} in the evening.", "Write a short scene in {place}.",
    "Write a short letter to {reader} {letter}.", "Write a polite e-mail to {reader} {letter}.",
    "Give me a recipe for {dish}.", "How do I make {dish} for {number} people?", "What goes well with {dish}?",
    "What is {number} plus {number}?", "Repeat this sentence: The {noun} was near the {noun}.",
    "Copy this list:\n{lines}", "Write the word {noun} {number} times.", "Count from 3 to {number}.",
    "Write the multiples of {few_number} up to {number}.", "Put these words in alphabetical order: {words}.",
    "Write each of these words on a line of its own: {words}.",
    "Make a table with two columns, word and meaning, for: {words}.",
    "Write a sentence that begins with '{beginning}' about each of these: {words}.",
    "Write a Python function that counts the {noun}s of a list.",
    "Translate into French: The {noun} is near the {noun}.",
)
ALONE_SHARE = 0.03
"""Share of the everyday questions that stand alone."""
COMMON_NOUNS = 2500


def common_nouns(wordnet: Path, count: int = COMMON_NOUNS) -> list[str]:
    """The nouns that WordNet counted most in texts (`cntlist.rev`), from the folder of its files."""
    counts: Counter[str] = Counter()
    for line in (wordnet / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, seen = line.split()
        word, rest = key.split("%")
        if rest.startswith("1:") and word.isalpha() and len(word) > 2:
            counts[word] += int(seen)
    return [word for word, _ in counts.most_common(count)]


def draw_prompts(nouns: Sequence[str], seed: int, banned: frozenset[str] = frozenset()) -> Iterator[str]:
    """Prompts without end, none twice, none of the banned ones."""
    draws, alone, seen = random.Random(seed), list(all_questions()), set(banned)
    while True:
        prompt = draws.choice(alone) if draws.random() < ALONE_SHARE else _filled(draws, nouns)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt


def _filled(draws: random.Random, nouns: Sequence[str]) -> str:
    """A template with its words; a name that stands there twice gets two words."""
    def some() -> list[str]:
        return [draws.choice(nouns) for _ in range(draws.randint(3, 8))]

    words: dict[str, Callable[[], str]] = {
        "doing": lambda: draws.choice(DOINGS), "matter": lambda: draws.choice(MATTERS),
        "noun": lambda: draws.choice(nouns), "person": lambda: draws.choice(PEOPLE),
        "place": lambda: draws.choice(PLACES), "reader": lambda: draws.choice(READERS),
        "letter": lambda: draws.choice(MATTERS_OF_LETTERS), "dish": lambda: draws.choice(DISHES),
        "few": lambda: draws.choice(("three", "four", "five", "ten")), "few_number": lambda: str(draws.randint(2, 12)),
        "number": lambda: str(draws.randint(4, 60)), "beginning": lambda: draws.choice(BEGINNINGS),
        "words": lambda: ", ".join(some()), "lines": lambda: "\n".join(f"- {word}" for word in some()),
    }
    text = draws.choice(TEMPLATES)
    for name, draw in words.items():
        while (mark := f"{{{name}}}") in text:
            text = text.replace(mark, draw(), 1)
    return text
