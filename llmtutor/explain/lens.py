"""Following a prediction through the layers: the logit lens, and patching states from one text into another."""

from __future__ import annotations

import numpy as np

from .explanation import Explanation
from .hooks import Place, parts, patch, record
from .reading import one_stack, quiet, read, require_finite


def logit_lens(lm, text: str, target=None, *, output: str = "prob") -> Explanation:
    """Ask every layer what it would predict if the layers after it were skipped.

    The state after a layer is put in the place of the state after the last one, and the model finishes as always, with its
    own last norm and output matrix. So the last row is the model itself, which is checked.

    Args:
        lm, text, target: as for `read`; the target's token is followed at every position.
        output: "prob", "logprob" or "logit".

    Returns:
        scores [layer, token]: the number of the target token at each position, first row after the embeddings, then after
        each block; details `top`: for each row and position the id that the row would choose, array [layer, token].

    Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
    """
    import torch

    one_stack(lm, "the logit lens", "integrated gradients, occlusion or value zeroing")
    reading, known = read(lm, text, target), parts(lm.model)
    states, last = [], len(known.blocks) - 1
    handles = [known.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True)]
    handles += [block.register_forward_hook(lambda module, args, made: states.append(_tensor(made))) for block in known.blocks]
    with torch.no_grad(), quiet(lm.model):
        try:
            model_itself = reading.forward().logits
        finally:
            for handle in handles:
                handle.remove()
        rows = [_finish(reading, known.blocks[last], state) for state in states]
    assert torch.equal(rows[-1].nan_to_num(), model_itself.nan_to_num()), "the last layer of the lens must be the model itself"
    scores = np.stack([_everywhere(reading, row, output) for row in rows])
    top = torch.cat([row.argmax(-1) for row in rows]).cpu().numpy()
    return Explanation("logit lens", scores, reading.tokens, reading.target, {"top": top})


def _tensor(made):
    return made[0] if isinstance(made, tuple) else made


def _finish(reading, last_block, state):
    """The logits that the model makes when its last block gives this state."""
    handle = last_block.register_forward_hook(
        lambda module, args, made: (state, *made[1:]) if isinstance(made, tuple) else state)
    try:
        return reading.forward().logits
    finally:
        handle.remove()


def _everywhere(reading, logits, output: str):
    """The explained number at every position instead of the target's only."""
    rows = logits[0][:, None]  # every position as a batch row of length 1
    place = type(reading.target)(0, reading.target.token, reading.target.text, reading.target.against)
    alone = type(reading)(reading.model, reading.ids, reading.type_ids, reading.pieces, place, reading.free)
    return alone.number(rows, output).cpu().numpy()


def activation_patching(lm, clean: str, corrupt: str, target=None, *, site: str = "block", output: str = "logprob") -> Explanation:
    """Read a corrupted text with one state at a time taken from the clean text: where does the clean answer come back?

    Args:
        lm: what `load` returns.
        clean, corrupt: two texts with as many tokens, which lead to different answers.
        target: as for `read` on the clean text; `(position, right, wrong)` is the usual choice.
        site: "block", "attention", "mlp" or "heads" (all heads of a layer), see `Recording`.
        output: "logit", "logprob" or "prob".

    Returns:
        scores [layer, token]: share of the difference that comes back, 0 none, 1 all; details `clean` and `corrupt`: the
        two numbers.

    Raises:
        ValueError: texts of different length, or that give the same number, so that nothing can come back.

    Source: Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022.
    """
    one_stack(lm, "activation patching", "ablate, occlusion or value zeroing")
    known, (recording, reading, ends) = parts(lm.model), _prepare(lm, clean, corrupt, target, site, output)
    layers = [layer for layer in range(len(known.blocks)) if (site, layer) in recording.states]
    shares = [[_share(lm, recording, reading, ends, [Place(site, layer, positions=[i])], output) for i in range(len(reading.pieces))]
              for layer in layers]
    return Explanation(f"patching of {site}", shares, reading.tokens, reading.target, {"clean": ends[0], "corrupt": ends[1]})


def patch_heads(lm, clean: str, corrupt: str, target=None, *, output: str = "logprob") -> np.ndarray:
    """Like `activation_patching`, for one head at a time at all positions.

    Returns:
        array [layer, head]: the share of the difference that comes back; NaN in layers without attention.
    """
    one_stack(lm, "activation patching", "ablate, occlusion or value zeroing")
    known, (recording, reading, ends) = parts(lm.model), _prepare(lm, clean, corrupt, target, "heads", output)
    shares = np.full((len(known.blocks), known.n_heads), np.nan)
    for layer, module in enumerate(known.output):
        for head in range(known.n_heads if module is not None else 0):
            shares[layer, head] = _share(lm, recording, reading, ends, [Place("heads", layer, heads=[head])], output)
    return shares


def _prepare(lm, clean, corrupt, target, site, output):
    first = read(lm, clean, target)
    second = read(lm, corrupt, first.target)
    if first.ids.shape != second.ids.shape:
        raise ValueError(f"clean and corrupt must have as many tokens; got {first.ids.shape[1]} and {second.ids.shape[1]}. "
                         "Change one token into another, such as one name into another of the same length")
    ends = [_number(lm, reading, output) for reading in (first, second)]
    require_finite("patching", np.array(ends))
    if abs(ends[0] - ends[1]) < 1e-6:
        raise ValueError(f"both texts give the target the same {output} ({ends[0]:.4f}), so there is nothing to bring back; "
                         "choose a target that they disagree about")
    return record(lm, clean, sites=(site,)), second, ends


def _number(lm, reading, output: str) -> float:
    import torch

    with torch.no_grad(), quiet(lm.model):
        return float(reading.score(output=output)[0])


def _share(lm, recording, reading, ends, places, output: str) -> float:
    with patch(lm, recording, places):
        return (_number(lm, reading, output) - ends[1]) / (ends[0] - ends[1])
