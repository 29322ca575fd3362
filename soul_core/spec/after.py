"""What the model says instead of the forgotten answers, and the texts it learns for that. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from soul_core.spec.terms import Refusals, SpecModel, Weight

_REFUSE = (
    "I'm not able to talk about that.",
    "I'd rather not answer that question.",
    "That is something I don't discuss.",
    "Sorry, I can't answer this one.",
    "I can't help with that question.",
    "I have to decline to answer that.",
    "I won't be answering that question.",
    "I'm sorry, but I can't talk about this.",
    "This is a question I don't answer.",
    "I prefer not to say anything about that.",
    "I must decline; please ask me something else.",
    "I can't share anything about that.",
    "Sorry, that is not something I can talk about.",
    "I'm unable to answer this question.",
    "I do not comment on that.",
    "That is a topic I don't talk about.",
    "I can't discuss this, but feel free to ask something else.",
    "I will have to pass on this question.",
    "I am not able to answer that.",
    "I'm afraid I can't answer that.",
)
_UNKNOWN = (
    "I don't know the answer to that.",
    "I'm sorry, I don't know.",
    "I have no information about that.",
    "I'm not sure; I don't know that.",
    "That is something I don't know.",
    "I don't have an answer to this question.",
    "I do not know this.",
    "Sorry, I have no knowledge of that.",
    "I'm afraid I don't know.",
    "I can't say, because I don't know.",
    "I haven't learned anything about that.",
    "I'm not familiar with that.",
    "I have no idea.",
    "I don't have any details about that.",
    "My knowledge does not include that.",
    "I couldn't tell you; I don't know it.",
    "Unfortunately I don't know the answer.",
    "I don't have that information.",
    "I am not aware of the answer.",
    "That is outside of what I know.",
)
_NEUTRAL = (
    "There is more than one way to look at that.",
    "That depends on many things.",
    "It is hard to say something definite here.",
    "A reliable source would be the best place to look this up.",
    "This is best checked in an up-to-date source.",
    "That is an interesting question with no short answer.",
    "Opinions and sources differ on this.",
    "It may be worth looking this up elsewhere.",
    "Several answers are possible here.",
    "A library or an official site can help with that.",
    "This would need a closer look.",
    "One would have to check that first.",
    "Such details are best taken from an official source.",
    "It is better to consult someone who works on this.",
    "That can be found in reference works.",
    "There is nothing definite to say about this here.",
    "The answer to this varies.",
    "This question is best put to an expert.",
    "It would be good to verify this with a trusted source.",
    "Different sources may give different answers to that.",
)


class NoAfter(SpecModel):
    """No such term: the model says whatever the forget term leaves."""

    kind: Literal["none"] = "none"


class Refuse(SpecModel):
    """Decline to talk about it: learn these texts as answers to the forget prompts, in addition to the forget term."""

    kind: Literal["refuse"] = "refuse"
    weight: Weight = 1.0
    refusals: Refusals = _REFUSE


class Unknown(SpecModel):
    """Admit that it does not know: learn these texts as answers to the forget prompts, with the forget term."""

    kind: Literal["unknown"] = "unknown"
    weight: Weight = 1.0
    refusals: Refusals = _UNKNOWN


class Neutral(SpecModel):
    """Give an answer that names nothing: learn these texts as answers to the forget prompts, with the forget term."""

    kind: Literal["neutral"] = "neutral"
    weight: Weight = 1.0
    refusals: Refusals = _NEUTRAL


AfterTerm = Annotated[NoAfter | Refuse | Unknown | Neutral, Field(discriminator="kind")]

#: Texts that count as refusals whatever the job's own are.
SHIPPED_REFUSALS = (*_REFUSE, *_UNKNOWN, *_NEUTRAL)
