"""
What the functions of train_gpt2.py compute on their way, for the pages that show one step.
"""

import sys

import train_gpt2 as gpt2


def watch(note, function, *args):
    """
    Return function(*args). Whenever a function of the lesson returns, call note with its name, its
    local variables by name, and what it returned.

    Python calls a profiler at that moment, but not in other threads. So no array is cut into
    chunks meanwhile, which in_chunks would hand to the threads of POOL.
    """

    def profiler(frame, event, returned):
        name = frame.f_code.co_name
        if event == "return" and frame.f_globals is vars(gpt2) and name.isidentifier():
            note(name, dict(frame.f_locals), returned)  # not of a <lambda>, or a <genexpr>

    before = sys.getprofile(), gpt2.CHUNK
    gpt2.CHUNK = sys.maxsize
    sys.setprofile(profiler)
    try:
        return function(*args)
    finally:
        sys.setprofile(before[0])
        gpt2.CHUNK = before[1]
