"""
What the functions of train_gpt2.py compute on their way, for the pages that show one step.
"""

import inspect
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
        name, is_generator = frame.f_code.co_name, frame.f_code.co_flags & inspect.CO_GENERATOR
        # not of a <lambda>; nor of a generator, which may be an old one that is thrown away now
        if event == "return" and frame.f_globals is vars(gpt2) and name.isidentifier():
            if not is_generator:
                note(name, dict(frame.f_locals), returned)

    before = sys.getprofile(), gpt2.CHUNK
    gpt2.CHUNK = sys.maxsize
    sys.setprofile(profiler)
    try:
        return function(*args)
    finally:
        sys.setprofile(before[0])
        gpt2.CHUNK = before[1]
