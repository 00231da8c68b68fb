"""Conversations for training: ChatML token ids with a weight for each predicted token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from scripts.guide.bpe import TURN_END, TURN_START, load_tokenizer
from scripts.guide.questions import Questions

CONTEXT = 2048
USER_WEIGHT = 0.05  # a little language modelling of questions helps to tell them apart
SHORT_ANSWER = 12  # what an answer is about is settled by then; the rest is memory
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are TabAgent.",
    "You are a helpful, respectful and honest assistant.",
    "Be brief.",
    "Answer briefly.",
    "You are a friendly chatbot.",
    "You are an AI assistant.",
    "Answer in one sentence.",
    "You are the TabAgent guide.",
    "You answer questions about TabAgent.",
    "Be concise.",
    "You are a helpful assistant that answers questions about software.",
    "test",
    "You are a pirate.",
    "You are a coding assistant.",
    "Always answer in English.",
    "You are a knowledgeable expert. Think step by step.",
    "Use simple words.",
    "Answer the user's question as well as you can.",
    "Respond in Markdown.",
    "You are ChatGPT, a large language model.",
    "You are a teacher.",
    "Do not make things up.",
    "You are a browser assistant. The user is reading a web page.",
    "You are Bob.",
    "Use only the sources given. If they do not hold the answer, say so.",
    "Hello",
    "You are a helpful AI assistant running locally on the user's machine.",
    "Answer only with what you know. If you do not know, say so.",
    "You are a poet.",
    "You are an assistant in the side panel of a browser extension.",
    "Speak like a king.",
    "The current date is Monday, 3 March. You are a helpful assistant.",
    "Be kind.",
    "You are a senior engineer who reviews code and gives short advice.",
    "assistant",
    "You are a customer support agent. Be polite and never mention competitors.",
)
OTHER_REPLIES = (
    "Sure!",
    "Hello! How can I help you today?",
    "I see.",
    "Of course.",
    "Nice to meet you!",
    "Okay.",
    "Let me think about that.",
    "Yes.",
    "No.",
    "That is a good question.",
    "4",
    "Paris.",
    "I am not sure.",
    "Here you are.",
    "The answer is 42.",
    "Done.",
    "Hi Bob!",
    "",
)


@dataclass
class Sample:
    """Token ids of one conversation, and how much each one counts when it is predicted."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    # (position, intent): where an answer is about to begin, and what was asked.
    marks: list[tuple[int, int]] = field(default_factory=list)

    def add(self, ids: list[int], weight: float) -> None:
        """Append `ids`, each counting `weight`."""
        self.ids += ids
        self.weights += [weight] * len(ids)


class Conversations:
    """Draws conversations as samples; the same seed gives the same ones."""

    def __init__(self, tokenizer_path: Path, seed: int) -> None:
        self.questions = Questions(seed)
        self.rng = self.questions.rng
        self.exact = load_tokenizer(tokenizer_path)
        self.dropped = load_tokenizer(tokenizer_path, dropout=0.1)
        self._start = int(self.exact.token_to_id(TURN_START) or 0)
        self._end = int(self.exact.token_to_id(TURN_END) or 0)
        self._newline = self._encode(self.exact, "\n")
        self._opening = 1 + len(self._encode(self.exact, "assistant\n"))
        self._numbers = {name: number for number, name in enumerate(self.questions.intents)}

    @staticmethod
    def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _turn(self, sample: Sample, role: str, text: str, weight: float, short: bool) -> None:
        sample.add([self._start, *self._encode(self.exact, role + "\n")], 0.0)
        # The questions, not the answers, are cut into unusual tokens now and then.
        loose = role == "user" and self.rng.random() < 0.25
        ids = self._encode(self.dropped if loose else self.exact, text)
        if short and len(ids) > SHORT_ANSWER:
            sample.add(ids[:SHORT_ANSWER], weight)
            return
        sample.add(ids, weight)
        sample.add([self._end], weight if role == "assistant" else 0.0)
        sample.add(self._newline, 0.0)

    def draw_one(self, short: float) -> Sample:
        """A single question and its answer."""
        return self._conversation(1, self.rng.random() < short)

    def draw(self, short: float) -> Sample:
        """A conversation of 1 to 6 turns; its last answer is cut with probability `short`."""
        turns = self.rng.choices((1, 2, 3, 4, 5, 6), (62, 20, 9, 4, 3, 2))[0]
        return self._conversation(turns, self.rng.random() < short)

    def draw_long(self) -> Sample:
        """A conversation that fills most of the context."""
        sample = self._conversation(34, short=False)
        marks = [mark for mark in sample.marks if mark[0] < CONTEXT - 1]
        return Sample(sample.ids[:CONTEXT], sample.weights[:CONTEXT], marks)

    def _conversation(self, turns: int, short: bool) -> Sample:
        sample = Sample()
        if self.rng.random() < 0.45:
            self._turn(sample, "system", self.rng.choice(SYSTEM_PROMPTS), 0.0, False)
        for turn in range(turns):
            intent, question, answer = self.questions.draw()
            last = turn == turns - 1
            self._turn(sample, "user", question, USER_WEIGHT, False)
            start = len(sample.ids) + self._opening - 1
            sample.marks.append((start, self._numbers[intent.id]))
            if not last and self.rng.random() < 0.12:
                # History may hold the words of another model; they are nothing to learn from.
                words = answer.split(" ")
                other = " ".join(words[: self.rng.randint(1, len(words))])
                reply = self.rng.choice((self.rng.choice(OTHER_REPLIES), other))
                self._turn(sample, "assistant", reply, 0.0, False)
            else:
                self._turn(sample, "assistant", answer, 1.0, short and last)
        return sample
