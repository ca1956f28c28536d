"""The story world: a seeded generator of short English and Chinese stories that knows the truth of every text it tells.

>>> story(1).text == story(1).text
True
"""
from .check import Report, check, sentences
from .kinds import KINDS, text
from .stories import Mention, Story, facts, moves, plain, short, story
from .words import segment
from .world import Event, World

__all__ = ["Event", "KINDS", "Mention", "Report", "Story", "World", "check", "facts", "moves", "plain", "segment", "sentences", "short", "story", "text"]
