"""Writes vllm_flags.txt: the options of `vllm serve`, as the argument parser of an installed vLLM has them.

    /opt/vllm/bin/python vllm_flags.py COMMIT > vllm_flags.txt

COMMIT is the one that the version's tag names in vllm-project/vllm on GitHub. What a value may be is found by trying
samples on the parser's own converters.
"""

import contextlib
import sys

with contextlib.redirect_stdout(sys.stderr):
    from typing import get_args

    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.model_executor.layers.quantization import QuantizationMethods
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.version import __version__

# The parser takes any word for this one, and what reads it (vllm/config/model.py) does not. "marlin" is short for several
# (override_quantization_method in vllm/model_executor/layers/quantization/).
CHECKED_LATER = {"--quantization": [*get_args(QuantizationMethods), "marlin"]}
SAMPLES = [("text", "text"), ("json", "{}"), ("float", "1.5"), ("size", "4k"), ("int", "1")]


def accepts(action, sample):
    try:
        (action.type or str)(sample)
        return True
    except Exception:
        return False


def takes(action):
    """What follows the option, and the values among which it has to be."""
    if action.nargs == 0:
        return "switch"
    kind = next(name for name, sample in SAMPLES if accepts(action, sample))
    choices = action.choices or CHECKED_LATER.get(action.option_strings[0])
    if choices:
        kind = "|".join(str(choice) for choice in choices)
    elif kind != "text":
        words = [word for word in ("auto", "None") if accepts(action, word)]
        kind = "|".join(["<" + kind + ">", *words])
    else:
        kind = "<text>"
    return {None: "one", "?": "optional", "+": "many"}[action.nargs] + " " + kind


parser = make_arg_parser(FlexibleArgumentParser())
options = [action for action in parser._actions if action.option_strings]
print(
    f"""\
# Options of `vllm serve`, vLLM {__version__}. Source: vllm-project/vllm on GitHub, tag v{__version__},
# commit {sys.argv[1]}: the parser that vllm/entrypoints/openai/cli_args.py,
# vllm/engine/arg_utils.py and vllm/config/*.py build. Written by vllm_flags.py, which says how to make it anew.
# A line is: names of an option, how many values it takes (switch, optional, one, many), and values that fit it.
version {__version__}"""
)
for action in sorted(options, key=lambda action: action.option_strings[0]):
    print(",".join(sorted(action.option_strings, key=len, reverse=True)), takes(action))
