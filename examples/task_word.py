"""A string task: the English word with the most letters of a set, for its length.

    python migrate.py --task examples/task_word.py --steps 30
    python migrate.py --task examples/task_word.py --letters xyz --model smollm2 --steps 30

It runs with the bundled policy for words, whose prompts it borrows, and with any other model.
"""
from dataclasses import dataclass

import tasks
from domains.answers import words_in


@dataclass
class Word(tasks.Task):
    letters: str = "aeiou"                      # the letters that count
    name, bundled = "word", "wordsearch"        # bundled: the policy in tiny/ to use

    def prompt(self):
        return "Guess the hidden word. Answer with one English word."

    def score(self, candidates):                # yields (candidate, score from 0 to 1)
        for word in candidates:
            yield word, sum(letter in self.letters for letter in word) / (len(word) + 1)

    def parse(self, completion):                # a list of candidates, empty if there is none
        return words_in(completion)[-1:]
