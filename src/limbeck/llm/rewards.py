"""Rewards that can be checked: what a completion is worth beside the data's own answer."""

import re
from abc import ABC, abstractmethod
from typing import final

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Reward(ABC):
    """What a completion is worth, whatever the scale: within a group of completions only differences count."""

    @abstractmethod
    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        """The worth of one completion.

        Args:
            prompt: What the student was given.
            wrote: What it wrote.
            answer: What stands in the data behind the prompt.
        """


@final
class SameText(Reward):
    """1 where the completion is the data's answer, but for blanks around it; else 0.

    >>> SameText()("1+1=", " 2", "2")
    1.0
    """

    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        """1 or 0."""
        return float(wrote.strip() == answer.strip())

    def __repr__(self) -> str:
        return "SameText()"


@final
class LastNumber(Reward):
    """1 where the last number of the completion is that of the data's answer, however they are written; else 0.

    For problems whose solutions end in a number, such as GSM8K's.

    >>> LastNumber()("", "So 1,200 in all.", "It makes #### 1200")
    1.0
    """

    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        """1 or 0."""
        found, wanted = last_number(wrote), last_number(answer)
        return float(found is not None and found == wanted)

    def __repr__(self) -> str:
        return "LastNumber()"


def last_number(text: str) -> float | None:
    """The last number of a text, commas between its digits left out; None where it has none."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
