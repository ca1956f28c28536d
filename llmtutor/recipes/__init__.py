"""How the bundled models are made: one module for each, all seeded; `python -m llmtutor.training NAME` runs them."""
from .bert import story_bert
from .gpt import Batches, WithLabels, document, judge, measure, new_gpt, sample, story_gpt, story_gpt_mini
from .instruct import story_gpt_instruct
from .tokenizer import learn_merges, story_tokenizer
from .translator import story_translator

__all__ = ["Batches", "RECIPES", "WithLabels", "document", "judge", "learn_merges", "measure", "new_gpt", "sample", "story_bert", "story_gpt",
           "story_gpt_instruct", "story_gpt_mini", "story_tokenizer", "story_translator"]

RECIPES = {"story-bert": story_bert, "story-gpt": story_gpt, "story-gpt-instruct": story_gpt_instruct, "story-gpt-mini": story_gpt_mini,
           "story-translator": story_translator}
"""Function of (out, seed=0, steps=None, fresh=False) that trains, measures and writes each bundled model."""
