"""Names that a spec may give: words that are safe as Python attributes and module paths."""

import keyword
import re
from collections.abc import Container

from blockgraph.errors import Place, Problems
from blockgraph.expression import FUNCTIONS

MAX_NAME = 100
_OWN = {"self", "torch", "math", "layer", *FUNCTIONS}
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# Public names of torch.nn.Module and of the class that compiled graphs build on; a test compares both.
_MODULE = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict
    modules mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    after_step blocks cast compute_dtype constants declare declare_constant declare_layers finish_init finish_step
    forget graph graphs initialize probed probes records source table weights
"""
MODULE_NAMES = frozenset(_MODULE.split())


def check_name(name: str, what: str, place: Place, problems: Problems, *, module: bool = False) -> bool:
    """Whether `name` can be an input, an output or a dim, or a node or a group, which become attributes of a `module`.

    A problem is added where it can not.
    """
    fault = _fault(name)
    if not fault and module and name in MODULE_NAMES:
        fault = "is a name of every torch module; choose another"
    if fault:
        problems.add(f"{what} '{name}' {fault}", place)
    return not fault


def unique(word: str, taken: Container[str]) -> str:
    """The word, with a count behind it when it is taken."""
    name, count = word, 2
    while name in taken:
        name, count = f"{word}_{count}", count + 1
    return name


def _fault(name: str) -> str:
    if not _WORD.fullmatch(name) or len(name) > MAX_NAME:
        return f"is not a word of up to {MAX_NAME} letters, digits and _ that begins with a letter"
    if "__" in name:
        return "holds a double underscore; write one"
    if keyword.iskeyword(name) or keyword.iskeyword(name.capitalize()) or name in _OWN:
        return "is a word of Python or of the language; choose another"
    return ""
