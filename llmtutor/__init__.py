"""LLM Tutor: large language models you can look inside, in English and Chinese.

>>> import llmtutor as lt
>>> lm = lt.load("story-gpt")
>>> att = lt.attend(lm, "Lily has a red ball.")
>>> att.weights.ndim                      # layer, head, query (looks), key (looked at)
4

Importing the package loads neither torch nor transformers: each name below is fetched when it is first used.
"""

from importlib import import_module

__version__ = "0.1.0"

# The functions and classes that stand at the top, and the module each one lives in.
_NAMES = {
    "load": "models",
    "attend": "attention",
    "attend_many": "attention",
    "Attention": "attention",
    "EncoderDecoderAttention": "attention",
    "bertviz": "headview",
    "explore": "viewer",
}
_MODULES = ("attention", "checks", "explain", "headview", "models", "plots", "storyworld", "tokens", "training")

__all__ = ["__version__", *_NAMES, *_MODULES]


def __getattr__(name):
    if name in _NAMES:
        value = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(sorted(__all__))}")


def __dir__():
    return sorted(__all__)
