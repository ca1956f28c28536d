"""Explanations of a model's predictions that can be checked, all with the same inputs and on the same tokens.

    method(lm, text, target=None, ...) -> Explanation(method, scores, tokens, target)

For an encoder-decoder the target is what it writes: `target="莉莉很高兴。"`, or `target=("莉莉很高兴。", 1)` for one of its tokens.

`explanation`   what every method returns
`reading`       text, target and baseline: the same start for every method
`maps`          attention, rollout with its null, value-weighted attention, gradient x attention, value zeroing
`inputs`        occlusion, gradient x input, integrated gradients
`lens`          logit lens, activation patching
`hooks`         ablating heads, recording and patching states, in `with` blocks
`heads`         naming heads, each kind with its control and the cost of removing it
`faithfulness`  comprehensiveness and sufficiency against chance and against the best possible
`twins`         a task whose truth is known: an honest and a deceptive model, on which methods are scored
"""

from .explanation import Explanation, Target, compare
from .faithfulness import Faithfulness, faithfulness
from .heads import KINDS, HeadRow, Item, binding_items, find_heads, head_scores, pronoun_items, table
from .hooks import FAMILIES, Family, Place, Recording, ablate, head_means, patch, record
from .inputs import gradient_x_input, integrated_gradients, occlusion
from .lens import activation_patching, logit_lens, patch_heads
from .maps import (even_attention, gradient_x_attention, raw_attention, rollout, rollout_matrix, value_weighted,
                   value_zeroing)
from .twins import Twin, planted_data, score_methods, train_twins

METHODS = {
    "attention": raw_attention,
    "rollout": rollout,
    "value-weighted attention": value_weighted,
    "gradient x attention": gradient_x_attention,
    "gradient x input": gradient_x_input,
    "integrated gradients": integrated_gradients,
    "occlusion": occlusion,
    "value zeroing": value_zeroing,
}
"""Every method that gives one score a token, by name."""

__all__ = [
    "FAMILIES", "KINDS", "METHODS", "Explanation", "Faithfulness", "Family", "HeadRow", "Item", "Place", "Recording", "Target",
    "Twin", "ablate", "activation_patching", "binding_items", "compare", "even_attention", "faithfulness", "find_heads",
    "gradient_x_attention", "gradient_x_input", "head_means", "head_scores", "integrated_gradients", "logit_lens", "occlusion",
    "patch", "patch_heads", "planted_data", "pronoun_items", "raw_attention", "record", "rollout", "rollout_matrix",
    "score_methods", "table", "train_twins", "value_weighted", "value_zeroing",
]
