"""A pipeline: stages that read what others left, each a command of its own process.

    workdir: runs/quickstart
    stages:
      corpus: {verb: data corpus, args: ["{corpus}/stories.jsonl"]}
      pretrain:
        verb: train
        config: pretrain/quickstart.yaml
        set: {data.path: "{corpus}/stories.jsonl"}
        expect: {loss: {most: 1.0}}
    next:
      - jaxrl-llm generate {pretrain} --prompt "Once"

A stage lives in WORKDIR/NAME, and `{NAME}` stands for that directory in `args`, `set` and `next`.  A stage with a
config gets `workdir=WORKDIR/NAME`.  When it is done, .done.json there holds all that decided its result, and it is
skipped the next time; when that has changed, nothing runs until the user says `--redo NAME`.

`source` reads the file, `order` sorts the stages, `planning` makes commands of them and `checks` finds what cannot
work; `execute` runs them with `leftovers` of what was cut short, `progress` and `view` show how far they are;
`figures` says what each did, `expectations` whether that is enough, `report` writes it down.
"""

from jaxrl_llm.pipeline.execute import execute
from jaxrl_llm.pipeline.planning import Pipeline, plan
from jaxrl_llm.pipeline.stage import DONE, Stage, refuse_changed

__all__ = ["DONE", "Pipeline", "Stage", "execute", "plan", "refuse_changed"]
