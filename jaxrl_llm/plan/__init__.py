"""What a run will need, before anything of it exists: bytes by role, phase and device, from shapes alone.

    plan = make_plan(load("pretrain/debug"), make_target(), Traces())
    plan.peak          # Phase("update", bytes on the fullest device)

`target` says where it shall fit, `shapes` what arrays there will be, `kept` what a backward pass holds on to;
`weights`, `rollouts` and `update` write the lines that `account` adds up; `mend` tries overrides until it fits,
`compiled` asks the compiler.
"""

from jaxrl_llm.plan.account import Line, Phase, Plan, make_plan
from jaxrl_llm.plan.compiled import Compiled, compile_programs, whole_stacks
from jaxrl_llm.plan.hlo import Collective, hidden_share
from jaxrl_llm.plan.kept import Traces
from jaxrl_llm.plan.mend import Mend, find_mend
from jaxrl_llm.plan.roofline import Roofline, make_roofline
from jaxrl_llm.plan.target import Target, make_target
from jaxrl_llm.plan.topology import topology_target

__all__ = [
    "Collective",
    "Compiled",
    "Line",
    "Mend",
    "Phase",
    "Plan",
    "Roofline",
    "Target",
    "Traces",
    "compile_programs",
    "find_mend",
    "hidden_share",
    "make_plan",
    "make_roofline",
    "make_target",
    "topology_target",
    "whole_stacks",
]
