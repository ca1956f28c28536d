"""Make the picture of the README: `python docs/pictures.py`. One sentence, two pronouns: where does one head look?

The head is the one whose smallest margin over these four rows is largest, so it fits these sentences by construction.
"""
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import llmtutor as lt

SENTENCES = {"One day, Lily and Tom went to the park.": (" He", " She", "Tom", "Lily"),
             "有一天，莉莉和汤姆去了公园。": ("他", "她", "汤姆", "莉莉")}


def place(att, word):
    """Index of the token that ends where `word` ends."""
    end = att.info["text"].index(word) + len(word)
    return next(i for i, piece in enumerate(att.pieces) if piece.span[1] == end)


def main():
    lm = lt.load("story-gpt")
    maps, margins = [], []
    for sentence, (he, she, boy, girl) in SENTENCES.items():
        for pronoun, right, wrong in ((he, boy, girl), (she, girl, boy)):
            att = lt.attend(lm, sentence + pronoun)
            maps.append(att)
            margins.append(att.weights[:, :, -1, place(att, right)] - att.weights[:, :, -1, place(att, wrong)])
    layer, head = divmod(int(np.min(margins, axis=0).argmax()), len(maps[0].heads))
    fig, axes = plt.subplots(2, 1, figsize=(8.5, 4.6), layout="constrained")
    for ax, he, she in zip(axes, maps[::2], maps[1::2]):
        rows = [he[layer, head][-1], she[layer, head][-1]]
        lt.plots.heatmap(rows, [he.tokens[-1], she.tokens[-1]], key_tokens=[*he.tokens[:-1], f"{he.tokens[-1]} / {she.tokens[-1]}"], ax=ax)
    fig.suptitle(f"story-gpt, layer {layer}, head {head}")
    fig.savefig(Path(__file__).with_name("pronoun-head.png"), dpi=110)
    print(f"L{layer} H{head}, margins " + ", ".join(f"{margin[layer, head]:.2f}" for margin in margins))


if __name__ == "__main__":
    main()
