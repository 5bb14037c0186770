"""What the gateways answered, and whether that is right: the scores, and the version for the time of the request."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Far below what tells the variants apart.
_TOLERANCE = 1e-3

# What may answer: pairs of a version and the label that it is asked by.
Phase = frozenset[tuple[int, str]]


def phase(stable: int, canary: int | None = None) -> Phase:
    """Return who may answer while these versions have the labels."""
    return frozenset({(stable, "stable")} | (set() if canary is None else {(canary, "canary")}))


@dataclass(frozen=True)
class RawAnswer:
    """A body with status 200, and when (`time.monotonic`) it was asked for and came."""

    sent: float
    received: float
    body: bytes


@dataclass(frozen=True)
class Answer:
    """A prediction and who made it; times as in RawAnswer."""

    sent: float
    received: float
    version: int
    label: str
    scores: dict[str, float]

    @classmethod
    def parse(cls, raw: RawAnswer, asked: str) -> Answer:
        """Read an answer to a request for the model `asked`. Raises ValueError when it does not say what it must."""
        try:
            document = json.loads(raw.body)
            model = document["model"]
            if model["name"] != asked:
                raise ValueError(f"an answer of model {model['name']}")
            scores = {entry["label"]: float(entry["score"]) for entry in document["predictions"]}
            return cls(raw.sent, raw.received, int(model["version"]), str(model["label"]), scores)
        except (LookupError, TypeError) as error:
            raise ValueError(f"an answer without {error}: {raw.body[:200].decode(errors='replace')}") from error


def golden_scores(golden: Mapping[str, Any]) -> dict[str, float]:
    """Return the right scores by label of the first case of a golden file."""
    (scores,) = golden["cases"][0]["outputs"].values()
    return dict(zip(golden["labels"], scores["values"], strict=True))


def same_scores(found: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Return whether all labels are the same and their scores close enough."""
    # Not `> tolerance`, which not-a-number would pass.
    return found.keys() == wanted.keys() and all(abs(found[key] - wanted[key]) <= _TOLERANCE for key in wanted)


@dataclass
class Timeline:
    """Who may answer when. Spans overlap while a change is under way."""

    _spans: list[tuple[float, float, Phase]] = field(default_factory=list)

    def allow(self, phase: Phase, since: float, until: float) -> None:
        """Let `phase` answer requests that were under way at some time in the span."""
        self._spans.append((since, until, phase))

    def allowed(self, answer: Answer) -> Phase:
        """Return who may have given the answer."""
        found = (phase for since, until, phase in self._spans if answer.received >= since and answer.sent < until)
        return frozenset().union(*found)


@dataclass
class Judgement:
    """The answers that could be read, and what was wrong with any by kind, with an example of each."""

    answers: list[Answer] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def blame(self, kind: str, example: str) -> None:
        """Count an answer as wrong."""
        self.wrong[kind] += 1
        self.examples.setdefault(kind, example)


def judge(
    raw: Iterable[RawAnswer], asked: str, right: Mapping[int, Mapping[str, float]], timeline: Timeline
) -> Judgement:
    """Check every answer against the right scores by version and against who may answer at its time."""
    judgement = Judgement()
    for each in raw:
        try:
            answer = Answer.parse(each, asked)
        except ValueError as error:
            judgement.blame("unreadable", str(error))
            continue
        judgement.answers.append(answer)
        who = (answer.version, answer.label)
        allowed = timeline.allowed(answer)
        if who not in allowed:
            judgement.blame("version out of phase", f"{_name(who)} where {_names(allowed)} may answer")
        elif answer.version not in right:
            judgement.blame("unknown version", f"version {answer.version}")
        elif not same_scores(answer.scores, right[answer.version]):
            judgement.blame(
                "wrong scores", f"version {answer.version}: {answer.scores}, right: {right[answer.version]}"
            )
    return judgement


def share(answers: Sequence[Answer], version: int) -> float:
    """Return which part of the answers, 0 to 1, a version gave. Raises ValueError when there are none."""
    if not answers:
        raise ValueError("no answers to take a share of")
    return sum(answer.version == version for answer in answers) / len(answers)


def _name(who: tuple[int, str]) -> str:
    return f"{who[0]} ({who[1]})"


def _names(several: Collection[tuple[int, str]]) -> str:
    return ", ".join(map(_name, sorted(several))) or "nobody"
