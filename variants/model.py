"""
The lesson's model with other layers: what the files beside this one have in common.
"""

import types

import train_gpt2 as gpt2

BUILT_OF_LAYERS = "block_forward block_backward gpt2_forward gpt2_backward generate".split()
BUILT_OF_MODELS = "num_parameters named_views init_weights adamw_update evaluate main".split()


def model_with(**layers):
    """
    Return the lesson's functions as a namespace, these layers in the place of its own.

    A function of train_gpt2.py looks up what it calls by name, in its module. Those that are built
    of layers, or of a model, are given other names to look in; their code is the lesson's.
    """
    names = vars(gpt2) | layers
    for name in BUILT_OF_LAYERS + BUILT_OF_MODELS:
        if name not in layers:
            f = getattr(gpt2, name)
            names[name] = types.FunctionType(f.__code__, names, name, f.__defaults__)
    return types.SimpleNamespace(**names)
